//! Annotations of a Service: `key=value`, one a line, keys by their number or as they are.
#![no_main]

use ferrovia::k8s::annotations::{ANNOTATIONS, service_settings};
use ferrovia::k8s::convert::{Names, Rejections};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let pair = |line: &str| {
        let (key, value) = line.split_once('=')?;
        let known = key.parse::<usize>().ok().and_then(|number| ANNOTATIONS.get(number));
        Some((known.map_or(key, |annotation| annotation.key).to_owned(), value.to_owned()))
    };
    let meta = ObjectMeta { annotations: Some(text.lines().filter_map(pair).collect()), ..ObjectMeta::default() };
    let mut rejections = Rejections::default();
    let settings = service_settings(&meta, &Names::default(), &mut rejections);
    assert!(settings.scheduler_flags < 8);
    assert!(settings.weights.iter().all(|rule| rule.weight <= 65535));
    rejections.into_vec().iter().for_each(|rejection| assert!(!rejection.to_string().is_empty()));
});
