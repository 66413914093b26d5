//! What hostile clients, curious ones and changing secrets do to the real server.

mod abuse;
mod escaping;
mod keys;
mod tls;

use std::path::PathBuf;

/// A folder of one test; removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("plumbline-security-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes a file and gives its path. What was there is replaced at once, as a deployment does it.
    fn file(&self, name: &str, text: &str) -> String {
        let (path, new) = (self.0.join(name), self.0.join(format!("{name}.new")));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &path).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn sequence() -> serde_json::Value {
    serde_json::json!({"id": "x", "prompt_token_ids": [5], "completion_token_ids": [7, 8], "logprobs": [-1.0, -1.0]})
}
