//! `coretexd`, the Coretex server. Everything is in the library beside it.

use std::io::{self, Write};
use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::Parser;
use coretexd::config::{Environment, Flags, Source, dump, load};
use coretexd::telemetry::logs;

/// The system's allocator took a quarter of the server's time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Threads for blocking work: reads of the embedded store and of files. The default of 512 would
/// let a burst of reads take a gigabyte of stacks.
const BLOCKING_THREADS: usize = 64;

fn main() -> ExitCode {
    let (flags, env) = (Flags::parse(), Environment::of_process());
    let loaded = match load(&flags, &env) {
        Ok(loaded) => loaded,
        Err(error) => return fail(2, &format!("{error}\n")),
    };
    if loaded.dump {
        return match io::stdout().write_all(dump::dump(&loaded).as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(3),
        };
    }
    if let Err(error) = logs::init(&loaded.config.log) {
        return fail(3, &format!("error: cannot write logs: {error}\n"));
    }
    let source = Source::of(&loaded, flags, env);
    // One thread would let one busy task stop health checks and signals.
    let threads = available_parallelism().map_or(2, |cores| cores.get().max(2));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("coretexd")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(3, &format!("error: cannot start threads: {error}\n")),
    };
    let code = runtime.block_on(coretexd::run(loaded.config, source));
    // A read of a disk that hangs must not keep the program from ending.
    runtime.shutdown_background();
    code
}

fn fail(code: u8, text: &str) -> ExitCode {
    let _told = io::stderr().write_all(text.as_bytes());
    ExitCode::from(code)
}
