use super::*;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::Arc,
};

/// Replies of the server, in turn; the last one is repeated.
#[derive(Clone, Copy)]
enum Reply {
    Status(u16, &'static str),
    Text(&'static str),
    /// No reply for longer than the timeout.
    Silence,
    /// The server closes the connection.
    HangUp,
}

/// A server that records the requests.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Server {
    fn new(replies: &[Reply]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1/", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(vec![]));
        let (replies, kept) = (replies.to_vec(), requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut reader = BufReader::new(stream.unwrap());
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
                let length =
                    head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                let mut body = vec![0; length.unwrap_or(0)];
                reader.read_exact(&mut body).unwrap();
                let number = {
                    let mut kept = kept.lock().unwrap();
                    kept.push((head, serde_json::from_slice(&body).unwrap_or_default())); // GET has none
                    kept.len() - 1
                };
                let reply = replies[number.min(replies.len() - 1)];
                let (status, text) = match reply {
                    Reply::Status(status, text) => (status, text.to_owned()),
                    Reply::Text(text) => (200, json!({"choices": [{"message": {"content": text}}]}).to_string()),
                    Reply::Silence => {
                        std::thread::spawn(move || {
                            sleep(Duration::from_secs(5));
                            drop(reader);
                        });
                        continue;
                    }
                    Reply::HangUp => continue,
                };
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nRetry-After: 0\r\nConnection: close\r\n\r\n",
                    text.len()
                );
                let _ = reader.get_mut().write_all((head + &text).as_bytes());
            }
        });
        Self { url, requests }
    }

    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    fn endpoint(&self, folder: &std::path::Path) -> Endpoint {
        let settings = Settings {
            url: self.url.clone(),
            model: "looker".into(),
            key: Some("secret".into()),
            timeout: Duration::from_millis(1000),
            retries: 2,
            parallel: 3,
            cache: folder.join("answers.jsonl"),
        };
        Endpoint::new(settings, &Interrupt::default()).unwrap()
    }
}

fn questions(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn an_image_is_asked_about_once() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::new(&[Reply::Text(" Yes.\n")]));
    let asked = questions(&["a dog?", "a cat?", "two?", "three?"]);
    let answers = server.endpoint(folder.path()).ask_all(b"\x89PNG", &asked).unwrap();
    assert_eq!((answers, server.count()), (questions(&["Yes."; 4]), 4));
    // a second start
    server.endpoint(folder.path()).ask_all(b"\x89PNG", &asked).unwrap();
    assert_eq!(server.count(), 4);
    server.endpoint(folder.path()).ask_all(b"\xff\xd8", &asked[..1]).unwrap();
    assert_eq!(server.count(), 5);
    let requests = server.requests.lock().unwrap();
    let (head, body) = &requests[4];
    assert!(
        head.starts_with("POST /v1/chat/completions ") && head.to_lowercase().contains("authorization: bearer secret")
    );
    assert_eq!((&body["model"], &body["temperature"]), (&json!("looker"), &json!(0)));
    let content = &body["messages"][0]["content"];
    assert_eq!(content[0]["image_url"]["url"], "data:image/jpeg;base64,/9g=");
    assert_eq!(content[1]["text"], "a dog?");
}

#[test]
fn what_goes_by_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    for passing in [Reply::Status(500, "oops"), Reply::Status(429, ""), Reply::HangUp, Reply::Silence] {
        let server = Server::new(&[passing, passing, Reply::Text("no")]);
        let image = [server.url.as_bytes(), b"!"].concat();
        assert_eq!(server.endpoint(folder.path()).ask_all(&image, &questions(&["a dog?"])).unwrap(), ["no"]);
        assert_eq!(server.count(), 3);
    }
}

#[test]
fn an_interruption_is_heard() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::new(&[Reply::Status(500, "busy")]));
    let mut endpoint = server.endpoint(folder.path());
    endpoint.settings.retries = u32::MAX; // without limit
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| endpoint.ask_all(b"x", &questions(&["a dog?"])));
        while server.count() < 2 {
            sleep(Duration::from_millis(10));
        }
        endpoint.interrupt.set();
        assert!(asking.join().unwrap().unwrap_err().is::<Interrupted>());
    });
    assert!(endpoint.pause(Duration::from_secs(3600)).is_err());
}

#[test]
fn somebody_is_there_or_not() {
    let folder = tempfile::tempdir().unwrap();
    for (reply, says) in [(Reply::Status(404, "no list"), None), (Reply::Status(401, ""), Some("COMAT_ENDPOINT_KEY"))] {
        let said = Server::new(&[reply]).endpoint(folder.path()).check().err().map(|e| e.to_string());
        assert_eq!(said.is_some(), says.is_some());
        assert!(said.unwrap_or_default().contains(says.unwrap_or_default()));
    }
    let settings = Server::new(&[Reply::HangUp]).endpoint(folder.path()).settings;
    let nobody = Settings { url: "http://127.0.0.1:1/v1".into(), ..settings };
    let error = Endpoint::new(nobody, &Interrupt::default()).unwrap().check().unwrap_err().to_string();
    assert!(error.contains("--endpoint http://127.0.0.1:1/v1: nobody answers"), "{error}");
}

#[test]
fn what_does_not_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let error = |reply: Reply, tries: usize| {
        let server = Server::new(&[reply]);
        let error = server.endpoint(folder.path()).ask_all(b"x", &questions(&["a dog?"])).unwrap_err().to_string();
        assert_eq!(server.count(), tries, "{error}");
        error
    };
    assert!(error(Reply::Status(503, "busy"), 3).ends_with(
        "/v1/chat/completions: status 503 (busy), 3 times; what was answered is kept, the same command goes on"
    ));
    assert!(
        error(Reply::Status(401, "who?"), 1)
            .contains("authentication failed (status 401: who?); set COMAT_ENDPOINT_KEY")
    );
    assert!(error(Reply::Status(404, "no such model"), 1).contains("status 404 (no such model)"));
    assert!(error(Reply::Status(200, "{}"), 1).contains("no text in choices[0].message.content: {}"));
    assert!(error(Reply::Text(" "), 1).contains("no text in"));
    assert!(error(Reply::Silence, 3).contains("no answer in 1 s, 3 times"));
    let settings = Server::new(&[Reply::HangUp]).endpoint(folder.path()).settings;
    assert!(
        Endpoint::new(Settings { url: "localhost:8000".into(), ..settings }, &Interrupt::default())
            .err()
            .unwrap()
            .to_string()
            .contains("http://")
    );
}

#[test]
fn errors_fit_a_line() {
    assert_eq!(beginning("a\n b"), "a b");
    assert_eq!(beginning(&"ä".repeat(200)).chars().count(), 121);
}
