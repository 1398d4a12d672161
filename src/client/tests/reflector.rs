//! What a reflector does with the answers of a server, from the first request to what its sink gets.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use http_body_util::StreamBody;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use kube::client::Body;
use rkube_client::reflector::{
    Changes, Event, Listed, Sink, Source, Unreadable, Versioned, reflect,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// The end of the body of a watch.
enum Ending {
    /// It is complete.
    Done,
    /// The connection breaks.
    Broken,
    /// Nothing more comes.
    Open,
}

/// The answer to one request.
enum Answer {
    /// A document with its code.
    Document(u16, Value),
    /// Lines of a watch.
    Lines(Vec<String>, Ending),
}

type Answers = Arc<Mutex<VecDeque<Answer>>>;
type Requests = mpsc::UnboundedReceiver<http::Request<()>>;

/// The body of an answer.
type Frames = StreamBody<BoxStream<'static, std::io::Result<http_body::Frame<Bytes>>>>;

fn frame(text: String) -> std::io::Result<http_body::Frame<Bytes>> {
    Ok(http_body::Frame::data(Bytes::from(text)))
}

fn document(value: &Value) -> Frames {
    StreamBody::new(stream::iter([frame(value.to_string())]).boxed())
}

fn lines(texts: Vec<String>, ending: Ending) -> Frames {
    let texts = stream::iter(texts.into_iter().map(|text| frame(text + "\n")));
    let end = match ending {
        Ending::Done => stream::empty().boxed(),
        Ending::Broken => stream::iter([Err(std::io::Error::other("reset"))]).boxed(),
        Ending::Open => stream::pending().boxed(),
    };
    StreamBody::new(texts.chain(end).boxed())
}

/// Returns a client whose requests get these answers, in this order; later ones are never answered.
fn server(answers: impl IntoIterator<Item = Answer>) -> (kube::Client, Requests) {
    let answers: Answers = Arc::new(Mutex::new(answers.into_iter().collect()));
    let (sender, requests) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let answer = answers.lock().unwrap().pop_front();
        let (parts, _) = request.into_parts();
        // The test may have ended.
        let _ = sender.send(http::Request::from_parts(parts, ()));
        async move {
            let (code, body) = match answer {
                Some(Answer::Document(code, value)) => (code, document(&value)),
                Some(Answer::Lines(texts, ending)) => (200, lines(texts, ending)),
                None => std::future::pending().await,
            };
            let response = http::Response::builder().status(code).body(body).unwrap();
            Ok::<_, Infallible>(response)
        }
    });
    (kube::Client::new(service, "default"), requests)
}

fn service(name: &str, version: u64) -> Value {
    let meta = json!({"name": name, "namespace": "n", "uid": name, "resourceVersion": version.to_string()});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": meta})
}

/// Returns a service with a condition that lacks a required field.
fn broken(name: &str, version: u64) -> Value {
    let mut service = service(name, version);
    service["status"] = json!({"conditions": [{"type": "A", "status": "True"}]});
    service
}

fn list(version: u64, items: impl IntoIterator<Item = Value>) -> Answer {
    let items: Vec<Value> = items.into_iter().collect();
    let meta = json!({"resourceVersion": version.to_string()});
    let list = json!({"apiVersion": "v1", "kind": "ServiceList", "metadata": meta, "items": items});
    Answer::Document(200, list)
}

fn refusal(code: u16, reason: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code,
    })
}

fn event(kind: &str, object: &Value) -> String {
    json!({"type": kind, "object": object}).to_string()
}

fn bookmark(version: u64, is_end: bool) -> String {
    let mut object = service("", version);
    if is_end {
        object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    event("BOOKMARK", &object)
}

fn source() -> Source {
    Source::of::<Service>(None).delays(|_| Duration::from_millis(1))
}

/// A sink that tells what it gets.
struct Teller(mpsc::UnboundedSender<String>);

impl Teller {
    fn tell(&self, what: String) {
        self.0.send(what).unwrap();
    }
}

fn version(service: &Service) -> String {
    let version = service.metadata().resource_version.as_deref();
    format!("{}@{}", service.name_any(), version.unwrap_or_default())
}

fn told(list: &Listed<Service>) -> String {
    let readable = list.objects.iter().map(version);
    let unreadable = list.unreadable.iter().map(|object| {
        // The text of the error would quote a value.
        assert!(
            object.error.starts_with("a field has another type"),
            "{object:?}"
        );
        format!("!{}/{}/{}", object.namespace, object.name, object.uid)
    });
    let all: Vec<String> = readable.chain(unreadable).collect();
    format!("list {} at {}", all.join(" "), list.revision)
}

impl Sink<Service> for Teller {
    fn replace(&self, list: Listed<Service>) {
        self.tell(told(&list));
    }

    fn apply(&self, object: Service) {
        self.tell(format!("apply {}", version(&object)));
    }

    fn remove(&self, object: Service) {
        self.tell(format!("remove {}", version(&object)));
    }

    fn bookmark(&self, revision: u64) {
        self.tell(format!("at {revision}"));
    }

    fn unreadable(&self, object: Unreadable) {
        self.tell(format!("unreadable {}", object.name));
    }

    fn failed(&self, error: &kube::Error) {
        let what = match error {
            kube::Error::Api(status) => status.code.to_string(),
            _ => "connection".to_owned(),
        };
        self.tell(format!("failed {what}"));
    }
}

/// Runs a reflector until its sink got what is expected. Returns the requests so far: `list`, `watch`
/// with a version, or `stream`.
async fn run(source: Source, answers: Vec<Answer>, expected: &[&str]) -> Vec<String> {
    let count = answers.len();
    let (client, mut requests) = server(answers);
    let (sender, mut told) = mpsc::unbounded_channel();
    let reflector = tokio::spawn(reflect::<Service>(client, source, Teller(sender)));
    for expected in expected {
        assert_eq!(&told.recv().await.unwrap(), expected);
    }
    let mut asked = Vec::new();
    for _ in 0..count {
        asked.push(kind(&requests.recv().await.unwrap()));
    }
    reflector.abort();
    assert!(told.try_recv().is_err(), "nothing more is told");
    asked
}

/// Returns the parameter of a request.
fn parameter<'a>(request: &'a http::Request<()>, name: &str) -> Option<&'a str> {
    let mut pairs = request.uri().query()?.split('&');
    pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

fn kind(request: &http::Request<()>) -> String {
    let get = |name| parameter(request, name).unwrap_or_default();
    if get("watch") != "true" {
        return "list".into();
    }
    assert_eq!(get("allowWatchBookmarks"), "true");
    if get("sendInitialEvents") == "true" {
        assert_eq!(get("resourceVersionMatch"), "NotOlderThan");
        assert_eq!(get("resourceVersion"), "");
        return "stream".into();
    }
    format!("watch {}", get("resourceVersion"))
}

fn open(texts: impl IntoIterator<Item = String>) -> Answer {
    Answer::Lines(texts.into_iter().collect(), Ending::Open)
}

fn done(texts: impl IntoIterator<Item = String>) -> Answer {
    Answer::Lines(texts.into_iter().collect(), Ending::Done)
}

#[tokio::test]
async fn a_watch_that_ends_resumes_where_it_was() {
    let watched = done([
        event("ADDED", &service("b", 6)),
        event("MODIFIED", &service("a", 7)),
        event("DELETED", &service("b", 8)),
        bookmark(9, false),
    ]);
    let answers = vec![
        list(5, [service("a", 3)]),
        watched,
        open([event("ADDED", &service("c", 10))]),
    ];
    let expected = [
        "list a@3 at 5",
        "apply b@6",
        "apply a@7",
        "remove b@8",
        "at 9",
        "apply c@10",
    ];
    let asked = run(source(), answers, &expected).await;
    assert_eq!(asked, ["list", "watch 5", "watch 9"]);
}

#[tokio::test]
async fn a_lost_connection_loses_no_change() {
    let half = event("ADDED", &service("c", 8));
    let answers = vec![
        list(5, []),
        Answer::Lines(vec![event("ADDED", &service("a", 6))], Ending::Broken),
        // A server that was stopped in the middle of a line.
        done([event("ADDED", &service("b", 7)), half[..20].to_owned()]),
        open([half]),
    ];
    let expected = [
        "list  at 5",
        "apply a@6",
        "failed connection",
        "apply b@7",
        "apply c@8",
    ];
    let asked = run(source(), answers, &expected).await;
    assert_eq!(asked, ["list", "watch 5", "watch 6", "watch 7"]);
}

#[tokio::test]
async fn an_unknown_revision_is_listed_again() {
    let gone = refusal(410, "Expired");
    let answers = vec![
        list(5, [service("a", 3)]),
        Answer::Document(410, gone.clone()),
        list(7, [service("b", 6)]),
        open([event("ERROR", &gone)]),
        list(8, []),
        open(["what is this".to_owned()]),
        list(9, []),
        open([]),
    ];
    let expected = ["list a@3 at 5", "list b@6 at 7", "list  at 8", "list  at 9"];
    let asked = run(source(), answers, &expected).await;
    let lists = asked.iter().filter(|asked| *asked == "list").count();
    assert_eq!((lists, asked.len()), (4, 8), "{asked:?}");
}

#[tokio::test]
async fn refusals_are_told_and_tried_again() {
    let busy = || Answer::Document(429, refusal(429, "TooManyRequests"));
    let forbidden = Answer::Document(403, refusal(403, "Forbidden"));
    let answers = vec![busy(), forbidden, list(5, []), busy(), open([])];
    let expected = ["failed 429", "failed 403", "list  at 5", "failed 429"];
    let asked = run(source(), answers, &expected).await;
    assert_eq!(asked, ["list", "list", "list", "watch 5", "watch 5"]);
}

#[tokio::test]
async fn what_cannot_be_read_is_told_and_hides_nothing() {
    let watched = open([
        event("MODIFIED", &broken("c", 6)),
        event("ADDED", &service("d", 7)),
        // Whether it was the last of its name, only a list says.
        event("DELETED", &broken("c", 8)),
    ]);
    let answers = vec![
        list(5, [service("a", 3), broken("b", 4), service("c", 5)]),
        watched,
        list(9, [service("d", 7)]),
        open([]),
    ];
    let expected = [
        "list a@3 c@5 !n/b/b at 5",
        "unreadable c",
        "apply d@7",
        "list d@7 at 9",
    ];
    let asked = run(source(), answers, &expected).await;
    assert_eq!(asked, ["list", "watch 5", "list", "watch 9"]);
}

#[tokio::test]
async fn lists_are_streamed() {
    let watched = done([
        event("ADDED", &service("a", 3)),
        event("ADDED", &broken("b", 4)),
        event("ADDED", &service("c", 5)),
        event("DELETED", &service("c", 6)),
        event("MODIFIED", &service("a", 7)),
        bookmark(7, false),
        bookmark(8, true),
        event("ADDED", &service("d", 9)),
    ]);
    let answers = vec![
        // A list that is not complete is none.
        Answer::Lines(vec![event("ADDED", &service("x", 1))], Ending::Broken),
        done([event("ADDED", &service("y", 2))]),
        watched,
        open([]),
    ];
    let expected = ["failed connection", "list a@7 !n/b/b at 8", "apply d@9"];
    let asked = run(source().streamed(), answers, &expected).await;
    assert_eq!(asked, ["stream", "stream", "stream", "watch 9"]);
}

#[tokio::test]
async fn a_server_that_does_not_stream_lists_is_asked_for_one() {
    let answers = vec![
        Answer::Document(422, refusal(422, "Invalid")),
        list(5, [service("a", 3)]),
        open([event("ERROR", &refusal(410, "Expired"))]),
        list(6, []),
        open([]),
    ];
    let expected = ["list a@3 at 5", "list  at 6"];
    let asked = run(source().streamed(), answers, &expected).await;
    assert_eq!(asked, ["stream", "list", "watch 5", "list", "watch 6"]);
}

#[tokio::test]
async fn requests_have_the_selectors_of_their_source() {
    for streamed in [false, true] {
        let source = source().fields("a=b").labels("c=d").metadata_only();
        let (source, first) = match streamed {
            false => (source, list(5, [])),
            true => (source.streamed(), done([bookmark(5, true)])),
        };
        let (client, mut requests) = server([first, open([])]);
        let (sender, _told) = mpsc::unbounded_channel();
        let reflector = tokio::spawn(reflect::<Service>(client, source, Teller(sender)));
        for _ in 0..2 {
            let request = requests.recv().await.unwrap();
            assert_eq!(request.uri().path(), "/api/v1/services");
            assert_eq!(parameter(&request, "fieldSelector"), Some("a%3Db"));
            assert_eq!(parameter(&request, "labelSelector"), Some("c%3Dd"));
            let accept = request.headers()[http::header::ACCEPT].to_str().unwrap();
            assert!(accept.contains("as=PartialObjectMetadata"), "{accept}");
        }
        reflector.abort();
    }
}

#[tokio::test]
async fn changes_wait_for_their_reader_and_end_with_it() {
    let read = Arc::new(Mutex::new(0));
    let counted = read.clone();
    let texts = (6..16).map(move |version| {
        *counted.lock().unwrap() += 1;
        frame(event("ADDED", &service("a", version)) + "\n")
    });
    let watched = StreamBody::new(stream::iter(texts).chain(stream::pending()).boxed());
    let meta = json!({"resourceVersion": "5"});
    let list = document(
        &json!({"apiVersion": "v1", "kind": "ServiceList", "metadata": meta, "items": []}),
    );
    let answers = Arc::new(Mutex::new(VecDeque::from([list, watched])));
    let service = tower::service_fn(move |_: http::Request<Body>| {
        let body = answers.lock().unwrap().pop_front().unwrap();
        async move { Ok::<_, Infallible>(http::Response::new(body)) }
    });
    let client = kube::Client::new(service, "default");
    let alive = Arc::downgrade(&read);
    let mut changes = Changes::<Service>::new(client, source());
    assert!(matches!(changes.next().await, Some(Event::Listed(list)) if list.revision == 5));
    for expected in ["a@6", "a@7"] {
        match changes.next().await {
            Some(Event::Applied(service)) => assert_eq!(version(&service), expected),
            other => panic!("{other:?}"),
        }
    }
    let so_far = *read.lock().unwrap();
    assert!(so_far < 10, "{so_far} events are read, two were wanted");
    drop((read, changes));
    assert!(alive.upgrade().is_none(), "the watch goes on");
}
