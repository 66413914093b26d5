"""Reads tokens.parquet back with pyarrow and computes metrics of it, which have to be the report's.

    tokens.py TOKENS.parquet REPORT.json
"""

import json
import sys

import pyarrow.compute as pc
import pyarrow.parquet as pq


def main():
    table = pq.read_table(sys.argv[1])
    with open(sys.argv[2], encoding="utf-8") as file:
        report = json.load(file)
    metadata = table.schema.metadata
    assert metadata[b"plumbline.schema_version"] == b"1", metadata
    assert str(table.schema.field("token_id").type) == "uint32" and str(table.schema.field("rank").type) == "uint32"
    for engine in report["engines"]:
        own = table.filter(pc.and_(pc.equal(table["engine"], engine["engine"]), table["compared"]))
        assert own.num_rows == engine["metrics"]["tokens"], engine["engine"]
        mae = pc.mean(pc.abs(own["log_ratio"])).as_py()
        assert abs(mae - engine["metrics"]["mae_logprob"]) < 1e-12, (engine["engine"], mae)
        apart = pc.max(pc.abs(pc.subtract(pc.subtract(own["reference_logprob"], own["engine_logprob"]), own["log_ratio"]))).as_py()
        assert apart == 0.0, apart
        sequences = len(pc.unique(own["sequence_index"]))
        assert sequences == engine["metrics"]["sequences"], sequences
        assert pc.sum(pc.is_null(own["text"])).as_py() == 0
    print(f"{table.num_rows} rows in {table.num_columns} columns, as the report says")


main()
