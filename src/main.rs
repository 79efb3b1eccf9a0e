//! Arguments -> command -> exit code.

use std::process::ExitCode;

/// A webhook takes many small allocations on its way through templates, HTTP and
/// MQTT: with the C library's allocator the benchmark's closed loop took about a
/// third more CPU time. Huge pages are off, they would double the idle memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pinhook::cli::main()
}
