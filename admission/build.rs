//! Relocations of 24 bytes each are a twentieth of the program, and read into memory at its start; packed they are next
//! to nothing. It takes a C library of 2022 or later (glibc 2.36).

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
