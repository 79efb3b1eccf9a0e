//! Arguments -> command -> exit code.

use std::process::ExitCode;

/// A webhook takes some two hundred small allocations on its way through
/// templates, HTTP and MQTT, on two threads: with the C library's allocator they
/// are a third of its CPU time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pinhook::cli::main()
}
