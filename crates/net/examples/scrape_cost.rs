//! Prints the CPU time of one scrape: client thread only, server on another thread.
#![allow(clippy::print_stdout, clippy::unwrap_used)]
use std::{fs, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use router_net::{ScrapeOptions, ScrapeTarget, Scraper, Server, ServerOptions, body};
use router_rt::Tasks;

fn cpu_ns() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

fn main() {
    let (tx, rx) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        rt.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let page = bytes::Bytes::from(vec![b'm'; 58_000]);
            let handler = move |_: Request<Incoming>| {
                let page = page.clone();
                async move { Response::new(body::full(page)) }
            };
            let tasks = Tasks::new();
            let server =
                Server::start(listener, None, ServerOptions::default(), &tasks, handler).unwrap();
            tx.send(server.local_addr()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    let addr = rx.recv().unwrap();
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async move {
        let scraper =
            Scraper::new(ScrapeOptions { deadline: Duration::from_secs(5), ..Default::default() });
        let mut scrape = scraper.target(ScrapeTarget::new(addr, "/metrics").unwrap());
        for round in 0..6 {
            let before = cpu_ns();
            for _ in 0..5_000 {
                assert_eq!(scrape.fetch().await.unwrap().len(), 58_000);
            }
            let each = (cpu_ns() - before) as f64 / 5_000.0 / 1_000.0;
            println!("round {round}: {each:.1} us per scrape");
        }
    });
}
