//! From API objects to model values.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a benchmark is nobody's interface")]

mod settings;

use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ferrovia::k8s::load_text;
use ferrovia::model::NodeName;

/// Services as `kubectl get -o yaml` shows them, with a slice of five endpoints each.
fn yaml(n_services: u32) -> String {
    let mut text = String::new();
    for number in 0..n_services {
        let address = std::net::Ipv4Addr::from(0x0a60_0001 + number);
        writeln!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata:\n  namespace: shop\n  name: s{number}\n  \
             creationTimestamp: 2026-01-01T00:00:00Z\nspec:\n  type: ClusterIP\n  clusterIP: {address}\n  clusterIPs:\n  \
             - {address}\n  sessionAffinity: None\n  ports:\n  - name: http\n    port: 80\n    protocol: TCP\n    \
             targetPort: 8080\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
             namespace: shop\n  name: s{number}-1\n  labels:\n    kubernetes.io/service-name: s{number}\n\
             addressType: IPv4\nports:\n- name: http\n  port: 8080\n  protocol: TCP\nendpoints:"
        )
        .unwrap();
        for endpoint in 1..=5 {
            writeln!(
                text,
                "- addresses:\n  - 10.244.{}.{endpoint}\n  nodeName: n{}\n  conditions:\n    ready: true",
                number % 250,
                number % 250
            )
            .unwrap();
        }
        text.push_str("---\n");
    }
    text
}

fn folder(criterion: &mut Criterion) {
    let text = yaml(250);
    let node = NodeName::new("n1");
    let (snapshot, reports) = load_text(&text, &node);
    assert_eq!((snapshot.services.len(), reports.len()), (250, 0));
    criterion.bench_function("yaml: 250 services with their slices", |bencher| {
        bencher.iter_with_large_drop(|| load_text(black_box(&text), &node));
    });
}

criterion_group! {
    name = benches;
    config = settings::criterion();
    targets = folder
}
criterion_main!(benches);
