//! Bodies of reviews, from libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    powercap_fuzz::review(body);
});
