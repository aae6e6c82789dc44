//! Texts of quantities, from libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    if let Ok(text) = std::str::from_utf8(text) {
        powercap_fuzz::quantity(text);
    }
});
