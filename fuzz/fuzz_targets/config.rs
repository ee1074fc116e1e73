//! Configuration files, as the daemon reads them, down to validated values.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use ferrovia::cli::{self, Environment, Request};
use ferrovia::config::{Config, Purpose};
use libfuzzer_sys::fuzz_target;

/// Files of this process, one for each format.
static FILES: LazyLock<[PathBuf; 2]> = LazyLock::new(|| {
    let folder = std::env::temp_dir();
    ["yaml", "toml"].map(|format| folder.join(format!("ferrovia-fuzz-{}.{format}", std::process::id())))
});

fuzz_target!(|text: &[u8]| {
    for file in FILES.iter() {
        std::fs::write(file, text).expect("the temporary folder can be written");
        let argument = format!("--config={}", file.display());
        match cli::parse(["ferrovia", &argument], &Environment::default()) {
            Ok(Request::Run(flags)) => {
                let _ = Config::new(&flags, Purpose::Daemon);
            }
            Ok(other) => panic!("a file asked for {other:?}"),
            Err(refusal) => assert!(!refusal.text.is_empty() && refusal.code != 0),
        }
    }
});
