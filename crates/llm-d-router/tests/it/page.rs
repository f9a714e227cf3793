//! The page of `replay` in a real browser: it draws, it fits, it answers, and it loads nothing.

mod browser;

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, ensure};
use router_testkit::tools;
use serde_json::json;

use self::browser::{Browser, Scheme};
use crate::testdata;

/// For all that a test asks of the browser, on a loaded machine.
const LIMIT: Duration = Duration::from_mins(2);
/// What a hostile file name could try.
const HOSTILE: &str = "<img src=x onerror=document.title='broken'>.yaml";

/// A page of two loads, two seeds and three configurations, one of which has a hostile name.
fn write_page(folder: &Path) -> anyhow::Result<String> {
    let hostile = folder.join(HOSTILE);
    let preset =
        router_sim::replay::policy::preset("least-requests").context("there is no preset")?;
    std::fs::write(&hostile, preset.document)?;
    let page = folder.join("page.html");
    let output = Command::new(env!("CARGO_BIN_EXE_llm-d-router"))
        .args(["replay", "--limit=80", "--load=1,3", "--seeds=2", "--servers=3"])
        .args(["--config=go-default,round-robin", "--config"])
        .arg(&hostile)
        .arg("--trace")
        .arg(testdata::path("traces/mooncake-2000.jsonl"))
        .arg("--html")
        .arg(&page)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(format!("file://{}", page.display()))
}

#[tokio::test]
async fn the_page_works_in_a_browser() -> anyhow::Result<()> {
    let Some(program) = tools::browser()? else {
        println!("left out: `cargo xtask setup` found no browser for this machine");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let url = write_page(folder.path())?;
    let look = async {
        let mut browser = Browser::start(&program, folder.path()).await?;
        for (width, scheme) in [(400, Scheme::Light), (1400, Scheme::Dark)] {
            browser.open(&url, width, scheme).await?;
            fits_and_is_drawn(&mut browser, width).await?;
            answers(&mut browser).await?;
            let complaints = browser.complaints(&url);
            ensure!(complaints.is_empty(), "at a width of {width}: {complaints:?}");
        }
        browser.close().await
    };
    tokio::time::timeout(LIMIT, look).await.context("the browser took too long")?
}

async fn fits_and_is_drawn(browser: &mut Browser, width: u32) -> anyhow::Result<()> {
    let seen = browser
        .ask(
            "({
              title: document.title,
              overflow: document.documentElement.scrollWidth - innerWidth,
              empty: [...document.querySelectorAll('figure > svg')]
                .filter((svg) => svg.checkVisibility() && svg.getBoundingClientRect().height < 60).length,
              plots: [...document.querySelectorAll('figure > svg')].filter((svg) => svg.checkVisibility()).length,
              rows: [...document.querySelectorAll('.results tbody tr')].filter((row) => row.checkVisibility()).length,
              foreign: document.querySelectorAll('img').length,
              small: [...document.querySelectorAll('figure > svg text')]
                .filter((text) => text.checkVisibility() && text.getBoundingClientRect().height < 8).length,
            })",
        )
        .await?;
    // Two curves, a bar, three maps and three plots over load.
    let expected = json!({
        "title": "Replay of mooncake-2000.jsonl",
        "overflow": 0, "empty": 0, "plots": 9, "rows": 3, "foreign": 0, "small": 0,
    });
    ensure!(seen == expected, "at a width of {width}: {seen}");
    Ok(())
}

/// Selectors, buttons and the keyboard do what they say.
async fn answers(browser: &mut Browser) -> anyhow::Result<()> {
    let choose = "(id, value) => {
      const select = document.getElementById(id);
      select.value = value;
      select.dispatchEvent(new Event('change'));
    }";
    let shown = browser
        .ask(&format!(
            "(({choose})('load', '1'), [...document.querySelectorAll('section.panel')]
               .filter((panel) => panel.checkVisibility()).map((panel) => panel.dataset.load))"
        ))
        .await?;
    ensure!(shown == json!(["1"]), "{shown}");
    let differences = browser
        .ask(&format!(
            "(() => {{
              const choose = {choose};
              const cells = () => [...document.querySelectorAll('#differences tbody td b')].map((cell) => cell.textContent);
              choose('a', '0'); choose('b', '1');
              const there = cells();
              document.getElementById('swap').click();
              const back = cells();
              const turned = (text) => text.replace(/[+−]/, (sign) => (sign === '+' ? '−' : '+'));
              const isZero = (text) => Number(text.slice(1)) === 0;
              return [there.length, there.every((cell, at) => isZero(cell) || turned(cell) === back[at])];
            }})()"
        ))
        .await?;
    ensure!(
        differences == json!([26, true]),
        "13 measures at 2 loads, turned by swapping: {differences}"
    );
    let hidden = "document.querySelectorAll('.results [data-c=\"1\"].away').length";
    browser.ask("(document.querySelector('[data-chip=\"1\"]').focus(), 0)").await?;
    browser.press_space().await?;
    ensure!(browser.ask(hidden).await? == json!(2), "the key hides a configuration in both tables");
    browser.press_space().await?;
    ensure!(browser.ask(hidden).await? == json!(0), "and shows it again");
    Ok(())
}
