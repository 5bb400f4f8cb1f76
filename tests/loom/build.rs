//! Turns `cfg(loom)` on for this package alone: as a flag to all of cargo it would rebuild every dependency, and change some.

fn main() {
    println!("cargo::rustc-cfg=loom");
    println!("cargo::rerun-if-changed=build.rs");
}
