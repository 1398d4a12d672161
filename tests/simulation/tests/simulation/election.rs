//! Elections among candidates that lose and regain an API server that keeps one lease.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::pending;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rkube_client::election::{Election, Timing};
use rkube_client::events::{Recorder, Settings, Style};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::clock;

/// An API server with one lease.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lease: Option<Value>,
    revision: u64,
    /// Requests of these candidates are not answered.
    cut_off: Vec<usize>,
}

/// The server as one candidate sees it.
#[derive(Clone)]
struct Connection {
    server: Server,
    candidate: usize,
}

impl tower::Service<Request<Body>> for Connection {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { server, candidate } = self.clone();
        async move {
            if server.state().cut_off.contains(&candidate) {
                return pending().await;
            }
            // Either the request or the answer is on its way while something else happens.
            tokio::time::sleep(Duration::from_millis(3)).await;
            let (parts, body) = request.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let (code, answer) = server.state().answer(&parts.method, body);
            tokio::time::sleep(Duration::from_millis(3)).await;
            if server.state().cut_off.contains(&candidate) {
                return pending().await;
            }
            let response = Response::builder().status(code);
            Ok(response
                .body(answer.to_string().into_bytes().into())
                .expect("a response"))
        }
        .boxed()
    }
}

impl Server {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("a test that has not panicked")
    }

    fn election(&self, candidate: usize) -> Election {
        let connection = Connection {
            server: self.clone(),
            candidate,
        };
        let client = Client::new(connection, "default");
        // The writer is dropped, so that events go nowhere.
        let settings = Settings {
            style: Style::Counted,
            field_manager: "simulation",
            host: None,
            instance: String::new(),
        };
        let (recorder, _) = Recorder::new(client.clone(), settings);
        Election {
            client,
            namespace: "kube-system".into(),
            name: "component",
            identity: format!("candidate-{candidate}"),
            timing: Timing::default(),
            recorder,
        }
    }

    /// Returns a field of the lease's record.
    fn spec(&self, field: &str) -> Value {
        self.state()
            .lease
            .as_ref()
            .map_or(Value::Null, |lease| lease["spec"][field].clone())
    }
}

impl State {
    fn answer(&mut self, method: &Method, body: Value) -> (StatusCode, Value) {
        let status = |code: StatusCode, reason: &str| {
            let status = json!({"kind": "Status", "status": "Failure", "reason": reason,
                "message": reason, "code": code.as_u16()});
            (code, status)
        };
        match (method, self.lease.clone()) {
            (&Method::GET, Some(lease)) => (StatusCode::OK, lease),
            (&Method::GET | &Method::PUT, None) => status(StatusCode::NOT_FOUND, "NotFound"),
            (&Method::POST, Some(_)) => status(StatusCode::CONFLICT, "AlreadyExists"),
            (&Method::PUT, Some(old))
                if old["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] =>
            {
                status(StatusCode::CONFLICT, "Conflict")
            }
            _ => {
                self.revision += 1;
                let mut lease = body;
                lease["metadata"]["resourceVersion"] = self.revision.to_string().into();
                self.lease = Some(lease.clone());
                (StatusCode::OK, lease)
            }
        }
    }
}

/// Runs a future in simulated time.
fn simulated<F: Future<Output = ()>>(seed: u64, work: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        clock::begin(seed);
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(work());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a candidate, which begins anew when it has lost the lease.
async fn run(server: Server, candidate: usize, leaders: Rc<Cell<usize>>, terms: Rc<Cell<usize>>) {
    struct Leading(Rc<Cell<usize>>);
    impl Drop for Leading {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }
    loop {
        let election = server.election(candidate);
        let lost = election.lead(|| async {
            assert_eq!(leaders.get(), 0, "two lead");
            leaders.set(1);
            terms.set(terms.get() + 1);
            let _leading = Leading(leaders.clone());
            pending::<Infallible>().await
        });
        assert!(lost.await.is_err());
    }
}

#[test]
fn the_record_is_that_of_client_go() {
    simulated(0, || async {
        let server = Server::default();
        let first = server.election(1);
        let term = first.lead(|| tokio::time::sleep(Duration::from_secs(5)));
        assert!(term.await.is_ok());
        assert_eq!(server.spec("holderIdentity"), "candidate-1");
        assert_eq!(server.spec("leaseDurationSeconds"), 15);
        assert_eq!(server.spec("leaseTransitions"), 0);
        let acquired = server.spec("acquireTime");
        assert_ne!(server.spec("renewTime"), acquired);
        // The same candidate goes on at once; another one waits until nobody has renewed for a while.
        let began = Instant::now();
        assert!(first.lead(|| async {}).await.is_ok());
        assert!(began.elapsed() < Duration::from_secs(1));
        assert_eq!(server.spec("acquireTime"), acquired);
        assert!(server.election(2).lead(|| async {}).await.is_ok());
        let waited = began.elapsed();
        assert!(waited > Duration::from_secs(15), "{waited:?}");
        assert!(waited < Duration::from_secs(20), "{waited:?}");
        assert_eq!(server.spec("holderIdentity"), "candidate-2");
        assert_eq!(server.spec("leaseTransitions"), 1);
    });
}

#[test]
fn a_lease_without_a_holder_is_taken_at_once() {
    simulated(0, || async {
        let server = Server::default();
        server.state().lease = Some(json!({
            "metadata": {"name": "component", "resourceVersion": "7"},
            "spec": {"holderIdentity": "", "leaseDurationSeconds": 1, "leaseTransitions": 4},
        }));
        let began = Instant::now();
        assert!(server.election(1).lead(|| async {}).await.is_ok());
        assert!(began.elapsed() < Duration::from_secs(1));
        assert_eq!(server.spec("leaseTransitions"), 5);
    });
}

#[test]
fn a_leader_that_is_cut_off_stops_before_another_begins() {
    simulated(0, || async {
        let server = Server::default();
        let election = server.election(1);
        let began = Instant::now();
        let cut = async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            server.state().cut_off.push(1);
            pending::<Infallible>().await
        };
        let result = election.lead(|| cut).await;
        assert!(result.is_err());
        let elapsed = began.elapsed();
        assert!(elapsed < Duration::from_secs(41), "{elapsed:?}");
    });
}

/// Candidates lose and regain the server at random. Never do two lead, and somebody leads again
/// soon after all is well.
#[test]
fn there_are_never_two_leaders() {
    for seed in 0..40 {
        simulated(seed, move || async move {
            let mut random = StdRng::seed_from_u64(seed);
            let server = Server::default();
            let (leaders, terms) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
            let candidates = (0..3).map(|n| run(server.clone(), n, leaders.clone(), terms.clone()));
            let faults = async {
                for _ in 0..20 {
                    let pause = Duration::from_millis(random.random_range(0..20_000));
                    tokio::time::sleep(pause).await;
                    let cut_off = (0..3).filter(|_| random.random_range(0..3) == 0).collect();
                    server.state().cut_off = cut_off;
                }
                server.state().cut_off.clear();
                tokio::time::sleep(Duration::from_secs(40)).await;
                assert_eq!(leaders.get(), 1, "seed {seed}: nobody leads");
            };
            tokio::select! {
                _ = join_all(candidates) => unreachable!("candidates go on"),
                () = faults => {}
            }
            // Faults that change nothing would show nothing.
            assert!(terms.get() > 1, "seed {seed}");
        });
    }
}
