//! HTTP/1.1 as plain bytes: a client that sends just what a test says, and an application that keeps what it gets.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// One client connection.
pub struct Client(BufReader<TcpStream>);

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    fields: Vec<(String, String)>,
    pub body: String,
    pub took: Duration,
}

impl Reply {
    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// One GET on a connection of its own; the error says why there was no answer within [`ANSWER`].
pub async fn get(port: u16, path: &str, fields: &[(&str, &str)]) -> Result<Reply, String> {
    let connected = TcpStream::connect(("127.0.0.1", port)).await;
    let mut client = Client(BufReader::new(connected.map_err(|error| format!("cannot connect: {error}"))?));
    client.get(path, fields).await
}

/// Longer than HAProxy's every timeout in these tests: what takes more hangs.
pub const ANSWER: Duration = Duration::from_secs(8);

impl Client {
    pub async fn connect(port: u16) -> Client {
        Client(BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap()))
    }

    /// One GET; the connection is kept.
    pub async fn get(&mut self, path: &str, fields: &[(&str, &str)]) -> Result<Reply, String> {
        let asked = Instant::now();
        match tokio::time::timeout(ANSWER, self.exchange(path, fields)).await {
            Ok(Ok(reply)) => Ok(Reply { took: asked.elapsed(), ..reply }),
            Ok(Err(error)) => Err(format!("{error} after {:?}", asked.elapsed())),
            Err(_) => Err(format!("no answer within {ANSWER:?}")),
        }
    }

    async fn exchange(&mut self, path: &str, fields: &[(&str, &str)]) -> std::io::Result<Reply> {
        let mut request = format!("GET {path} HTTP/1.1\r\nHost: app\r\n");
        for (name, value) in fields {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        self.0.write_all(request.as_bytes()).await?;
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            if self.0.read_until(b'\n', &mut line).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let status = lines[0].split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let fields: Vec<_> = lines[1..]
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length = fields.iter().find(|(name, _)| name == "content-length").map_or("0", |(_, value)| value.as_str());
        let mut body = vec![0; length.parse().unwrap_or(0)];
        self.0.read_exact(&mut body).await?;
        Ok(Reply { status, fields, body: String::from_utf8_lossy(&body).into_owned(), took: Duration::ZERO })
    }
}

/// An application that says 200 to everything.
pub struct Application {
    pub port: u16,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Application {
    pub async fn start() -> Application {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(serve(listener, Arc::clone(&heads)));
        Application { port, heads, task }
    }

    /// The heads of the requests that came since the last call, health checks aside.
    pub fn take_heads(&self) -> Vec<String> {
        std::mem::take(&mut self.heads.lock().unwrap())
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, heads: Arc<Mutex<Vec<String>>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let heads = Arc::clone(&heads);
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while stream.read_line(&mut head).await.is_ok_and(|read| read > 0) {
                if !head.ends_with("\r\n\r\n") {
                    continue;
                }
                let head = std::mem::take(&mut head);
                if !head.starts_with("GET /healthz ") {
                    heads.lock().unwrap().push(head);
                }
                if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n").await.is_err() {
                    return;
                }
            }
        });
    }
}
