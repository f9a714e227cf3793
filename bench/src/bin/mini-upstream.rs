//! Many model servers that only answer: see `bench/README.md`.

use std::net::IpAddr;

use anyhow::Result;
use clap::Parser;
use router_bench::http::upstream::{Answers, Page, Upstream};
use router_bench::load;
use router_rt::Tasks;

/// Model servers without a model: fixed answers and a metrics page, many ports in one process.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    ip: IpAddr,
    /// First port; 0 takes free ones. The first line printed is a JSON list of all addresses.
    #[arg(long, default_value_t = 0)]
    base_port: u16,
    /// How many endpoints, one port each.
    #[arg(long, default_value_t = 1)]
    endpoints: usize,
    /// Model name in answers.
    #[arg(long, default_value = "base-model")]
    model: String,
    /// Bytes of a response body; 0 is as small as it comes.
    #[arg(long, default_value_t = 0)]
    answer_size: usize,
    /// Server-sent events in a streamed response.
    #[arg(long, default_value_t = 4)]
    answer_chunks: usize,
    /// Metrics page: vllm (58 KB), minimal, small-cache (the same but for its cache), or the path of a file.
    #[arg(long, default_value = "minimal")]
    page: String,
    /// Variants of the page, which take turns; 1 is a page that never changes.
    #[arg(long, default_value_t = 8)]
    page_variants: usize,
    /// Runtime threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let answers = Answers {
        model: cli.model,
        size: cli.answer_size,
        n_chunks: cli.answer_chunks,
        page: Page::load(&cli.page, cli.page_variants)?,
    };
    load::runtime(cli.threads)?.block_on(async {
        let tasks = Tasks::new();
        let upstream =
            Upstream::start(cli.ip, cli.base_port, cli.endpoints, &answers, &tasks).await?;
        load::print_line(&serde_json::to_string(&upstream.addresses)?)?;
        tasks.ended().await;
        Ok(())
    })
}
