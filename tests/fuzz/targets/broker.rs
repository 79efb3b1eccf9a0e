//! What clients and time can do to a broker, in any order; see `pinhook::broker::exercise`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pinhook::broker::exercise::exercise;

fuzz_target!(|input: &[u8]| exercise(input));
