//! The token table, read back.

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;

use super::{Always, Sequence, comparison, even, token};
use crate::{TableFacts, TableSequence, TokenTable};

fn facts() -> TableFacts {
    TableFacts { run: Some("run".into()), model: Some("tiny".into()), created_at: "2026-01-01T00:00:00Z".into() }
}

#[test]
fn rows_are_what_was_appended() {
    let mut tokens = vec![token(-1.0, -1.5), token(-9999.0, -2.0), token(f64::NAN, -2.0)];
    tokens[0].token_id = u32::MAX;
    tokens[2].reference = None;
    let sequence = Sequence::new("vllm", comparison("s1", tokens)).with_prompt(vec![3; 200]);
    let mut table = TokenTable::new(Vec::new(), &facts()).unwrap();
    table.append(&sequence.observed(), Some(&Always("=a"))).unwrap();
    let second = Sequence::new("sglang", even("s2", 2, 0.1));
    table.append(TableSequence { run: Some("one"), ..(&second.observed()).into() }, None).unwrap();
    assert_eq!(table.rows(), 5);
    let reader = SerializedFileReader::new(bytes::Bytes::from(table.finish().unwrap())).unwrap();
    let metadata = reader.metadata().file_metadata();
    let value =
        |key: &str| metadata.key_value_metadata().unwrap().iter().find(|pair| pair.key == key).unwrap().value.clone();
    assert_eq!((value("plumbline.run"), value("plumbline.schema_version")), (Some("run".into()), Some("1".into())));
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 5);
    let first = &rows[0];
    assert_eq!((first.get_string(0).unwrap().as_str(), first.get_string(4).unwrap().as_str()), ("vllm", "s1"));
    assert_eq!((first.get_long(5).unwrap(), first.get_int(6).unwrap(), first.get_uint(7).unwrap()), (0, 0, u32::MAX));
    assert_eq!((first.get_string(8).unwrap().as_str(), first.get_double(9).unwrap()), ("=a", -1.0));
    assert_eq!((first.get_double(11).unwrap(), first.get_bool(15).unwrap()), (-0.5, true));
    assert!(first.get_string(1).is_err() && first.get_string(16).is_err(), "no worker, and compared");
    assert_eq!((rows[1].get_double(9).unwrap(), rows[1].get_string(16).unwrap().as_str()), (-9999.0, "sentinel"));
    assert!(
        rows[2].get_double(9).unwrap().is_nan() && rows[2].get_double(10).is_err() && !rows[2].get_bool(15).unwrap()
    );
    assert_eq!((rows[4].get_long(5).unwrap(), rows[4].get_int(6).unwrap()), (1, 1));
    assert!(rows[4].get_string(8).is_err(), "text is not known");
    assert!(first.get_string(17).is_err(), "the whole table is of one run");
    assert_eq!(rows[4].get_string(17).unwrap(), "one");
}

#[test]
fn rows_are_written_as_they_come() {
    let sequence = Sequence::new("vllm", even("s", 50_000, 0.1));
    let mut table = TokenTable::new(Vec::new(), &facts()).unwrap();
    for _ in 0..7 {
        table.append(&sequence.observed(), None).unwrap();
        assert!(table.held_rows() < 1 << 17);
    }
    assert_eq!(table.rows(), 350_000);
    let reader = SerializedFileReader::new(bytes::Bytes::from(table.finish().unwrap())).unwrap();
    let groups: Vec<_> = reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(groups, [131_072, 131_072, 350_000 - 2 * 131_072]);
}
