//! A small Hugging Face hub on a local port: the part of its API that a download uses, for one model.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What the hub has and how it behaves; tests change it while it runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pub(crate) id: String,
    /// The commit of branch `main`.
    pub(crate) commit: String,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Without this token, files are refused.
    pub(crate) token: Option<String>,
    /// Answers everything with this status.
    pub(crate) status: Option<u16>,
    /// Accepts requests and never answers them.
    pub(crate) silent: bool,
    /// Ends the next transfer of this file half way.
    pub(crate) cut: Option<String>,
    /// Every request: path, range.
    pub(crate) requests: Vec<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct HubServer {
    address: SocketAddr,
    content: Arc<Mutex<Content>>,
}

impl HubServer {
    /// Serves the files of a folder. It ends with the test's process.
    pub(crate) fn start(id: &str, commit: &str, folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let files = std::fs::read_dir(folder).unwrap().map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())
        });
        let content = Content { id: id.into(), commit: commit.into(), files: files.collect(), ..Content::default() };
        let server = Self { address, content: Arc::new(Mutex::new(content)) };
        let serving = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let server = serving.clone();
                std::thread::spawn(move || server.answer(stream.unwrap()));
            }
        });
        server
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Content)) {
        change(&mut self.content.lock().unwrap());
    }

    /// The requests since the last call.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.content.lock().unwrap().requests)
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let Some(Ok(request)) = lines.next() else { return };
        let headers: BTreeMap<String, String> = lines
            .map_while(|line| line.ok().filter(|line| !line.is_empty()))
            .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())))
            .collect();
        let path = request.split(' ').nth(1).unwrap().to_owned();
        let range = headers.get("range").cloned().unwrap_or_default();
        let mut content = self.content.lock().unwrap();
        content.requests.push(format!("{path} {range}").trim_end().to_owned());
        let state = content.clone();
        let cut = content.cut.take_if(|file| path.ends_with(&format!("/cdn/{file}")) && range != "bytes=0-0").is_some();
        drop(content);
        if state.silent {
            // Held open until the client goes.
            let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut std::io::sink());
            return;
        }
        let authorised = state
            .token
            .as_ref()
            .is_none_or(|token| headers.get("authorization").is_some_and(|value| *value == format!("Bearer {token}")));
        let response = respond(&state, &self.endpoint(), &path, &range, authorised);
        let whole = response.len();
        let sent = if cut { whole - (whole / 2) } else { whole };
        // A client that has gone is no problem of the server's.
        let _ = stream.write_all(&response[..sent]);
    }
}

fn respond(state: &Content, endpoint: &str, path: &str, range: &str, authorised: bool) -> Vec<u8> {
    let plain = |status: u16, headers: &str, body: &[u8]| {
        let mut response =
            format!("HTTP/1.1 {status} Text\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n", body.len())
                .into_bytes();
        response.extend_from_slice(body);
        response
    };
    if let Some(status) = state.status {
        return plain(status, "", b"");
    }
    let Content { id, commit, files, .. } = state;
    if let Some(revision) = path.strip_prefix(&format!("/api/models/{id}/revision/")) {
        if revision != "main" && revision != commit {
            return plain(404, "X-Error-Code: RevisionNotFound\r\n", b"{}");
        }
        let siblings: Vec<_> = files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
        let body = serde_json::json!({"id": id, "sha": commit, "siblings": siblings});
        return plain(200, "", body.to_string().as_bytes());
    }
    let (name, stored_elsewhere) = match path.strip_prefix(&format!("/{id}/resolve/{commit}/")) {
        Some(name) => (name, name.ends_with(".safetensors")),
        None => (path.strip_prefix("/cdn/").unwrap_or(""), false),
    };
    let Some(file) = files.get(name) else { return plain(404, "X-Error-Code: EntryNotFound\r\n", b"") };
    if !authorised {
        return plain(401, "X-Error-Code: GatedRepo\r\n", b"");
    }
    let mut hasher = DefaultHasher::new();
    file.hash(&mut hasher);
    let etag = format!("{:016x}", hasher.finish());
    if stored_elsewhere {
        // As the hub does with large files.
        let headers = format!(
            "Location: {endpoint}/cdn/{name}\r\nX-Repo-Commit: {commit}\r\nX-Linked-Etag: \"{etag}\"\r\nX-Linked-Size: {}\r\n",
            file.len()
        );
        return plain(302, &headers, b"");
    }
    let (from, to) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
    let from: usize = from.parse().unwrap();
    let to = if to.is_empty() { file.len() } else { to.parse::<usize>().unwrap() + 1 };
    if from >= file.len() {
        return plain(416, &format!("Content-Range: bytes */{}\r\n", file.len()), b"");
    }
    let headers = format!(
        "ETag: \"{etag}\"\r\nX-Repo-Commit: {commit}\r\nContent-Range: bytes {from}-{}/{}\r\n",
        to - 1,
        file.len()
    );
    plain(206, &headers, &file[from..to])
}
