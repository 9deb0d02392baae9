#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| landfall_proof::fuzz::run("ping_answer", input));
