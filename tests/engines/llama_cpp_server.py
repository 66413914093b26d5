"""Serves a GGUF file with llama.cpp's own HTTP server on loopback until Ctrl-C.

    pip install xllamacpp
    python tests/engines/llama_cpp_server.py tiny.gguf 8103

The package xllamacpp brings llama.cpp's server as a prebuilt library, so that nothing is compiled.
"""

import signal
import sys

import xllamacpp

parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.hostnames = ["127.0.0.1"]
parameters.port = int(sys.argv[2])
parameters.n_ctx = 8192
parameters.n_parallel = 2
parameters.warmup = False
server = xllamacpp.Server(parameters)
print(server.listening_address, flush=True)
signal.sigwait({signal.SIGINT, signal.SIGTERM})
