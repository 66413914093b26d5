//! Progress on a terminal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the bar is drawn.
const PERIOD: Duration = Duration::from_millis(200);

/// A bar on stderr with scored tokens a second and the time that is left; nothing where stderr is no terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    task: tokio::task::JoinHandle<()>,
}

impl Progress {
    /// A bar over bytes that are read elsewhere.
    pub(crate) fn bytes(total: u64, read: Vec<Arc<AtomicU64>>, scored_tokens: Arc<AtomicU64>) -> Self {
        let template = "{bar:30} {bytes}/{total_bytes}  {msg}  {eta} left";
        Self::start(total, template, move || read.iter().map(|own| own.load(Relaxed)).sum(), scored_tokens)
    }

    /// A bar over things that are counted elsewhere.
    #[allow(dead_code, reason = "for commands that make engines generate")]
    pub(crate) fn count(total: u64, done: Arc<AtomicU64>, scored_tokens: Arc<AtomicU64>) -> Self {
        Self::start(total, "{bar:30} {pos}/{len}  {msg}  {eta} left", move || done.load(Relaxed), scored_tokens)
    }

    fn start(
        total: u64,
        template: &str,
        position: impl Fn() -> u64 + Send + 'static,
        scored_tokens: Arc<AtomicU64>,
    ) -> Self {
        // Draws nothing where stderr is no terminal.
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        // The templates are constants; one that does not parse leaves the default bar.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let (own, started) = (bar.clone(), Instant::now());
        let task = tokio::spawn(async move {
            loop {
                own.set_position(position());
                let tokens = scored_tokens.load(Relaxed);
                let rate = tokens as f64 / started.elapsed().as_secs_f64().max(1e-3);
                own.set_message(format!("{tokens} tokens scored, {rate:.0}/s"));
                tokio::time::sleep(PERIOD).await;
            }
        });
        Self { bar, task }
    }

    /// Prints a line above the bar, or just prints it.
    pub(crate) fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}
