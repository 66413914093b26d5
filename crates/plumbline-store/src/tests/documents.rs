//! Small documents, and a file from before there were any.

use rusqlite::Connection;

use super::Folder;

#[tokio::test]
async fn a_document_takes_the_place_of_the_one_before_and_outlives_the_process() {
    let folder = Folder::new();
    let store = folder.open();
    assert_eq!(store.reader().document("alerts").unwrap(), None);
    for text in ["one", "two"] {
        store.keep_document("alerts", text.into()).await.unwrap();
    }
    store.keep_document("other", b"three".to_vec()).await.unwrap();
    store.close().unwrap();
    drop(store);
    let store = folder.open();
    assert_eq!(store.reader().document("alerts").unwrap(), Some(b"two".to_vec()));
    assert_eq!(store.reader().document("other").unwrap(), Some(b"three".to_vec()));
}

#[tokio::test]
async fn a_file_of_the_first_schema_is_brought_up_to_date() {
    let folder = Folder::new();
    // As the first version made it.
    let connection = Connection::open(folder.file()).unwrap();
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").unwrap();
    connection.pragma_update(None, "application_id", 0x504c_554d).unwrap();
    connection.execute_batch(include_str!("../schema/1.sql")).unwrap();
    connection.execute_batch("INSERT INTO runs (number, name) VALUES (7, 'kept')").unwrap();
    connection.pragma_update(None, "user_version", 1).unwrap();
    drop(connection);
    let store = folder.open();
    store.keep_document("alerts", b"{}".to_vec()).await.unwrap();
    assert_eq!(store.reader().document("alerts").unwrap(), Some(b"{}".to_vec()));
    drop(store);
    let connection = Connection::open(folder.file()).unwrap();
    let kept: i64 = connection.query_row("SELECT number FROM runs WHERE name = 'kept'", (), |row| row.get(0)).unwrap();
    assert_eq!(kept, 7);
    assert!(crate::check(&folder.file()).unwrap().is_good());
}
