//! Random changes of the world, the same ones for the same seed.

use ferrovia::net::Protocol;
use serde_json::{Map, Value, json};

use super::world::{NAMESPACES, World, labels};

/// More policies than this, and one goes.
const MOST_POLICIES: usize = 7;

/// A splitmix64 generator.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n.max(1)).unwrap_or(1)).unwrap_or_default()
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn selector(&mut self, key: &str, values: &[&str]) -> Value {
        let (one, two) = (self.of(values), self.of(values));
        match self.below(8) {
            0 | 1 => json!({}),
            2..=4 => json!({"matchLabels": {key: one}}),
            5 => json!({"matchExpressions": [{"key": key, "operator": "In", "values": [one, two]}]}),
            6 => json!({"matchExpressions": [{"key": key, "operator": "NotIn", "values": [one]}]}),
            _ => json!({"matchExpressions": [{"key": key, "operator": self.of(&["Exists", "DoesNotExist"])}]}),
        }
    }

    fn pods(&mut self) -> Value {
        if self.chance(70) { self.selector("app", &["a", "b", "c"]) } else { self.selector("tier", &["front", "back"]) }
    }

    fn namespaces(&mut self) -> Value {
        self.selector("team", &["red", "blue"])
    }

    fn block(&mut self) -> Value {
        let blocks: [(&str, &[&str]); 8] = [
            ("0.0.0.0/0", &["10.244.1.12/32", "10.244.2.0/24", "10.244.0.0/16"]),
            ("10.244.0.0/16", &["10.244.1.0/24", "10.244.1.8/29", "10.244.2.12/30"]),
            ("10.244.1.0/24", &["10.244.1.12/30", "10.244.1.11/32"]),
            ("10.244.2.11/32", &[]),
            ("::/0", &["fd00:244:1::11/128", "fd00:244:2::/64"]),
            ("fd00:244::/32", &["fd00:244:1::/64", "fd00:244:2::12/127"]),
            ("fd00:244:1::/64", &["fd00:244:1::12/128", "fd00:244:1::10/124"]),
            ("fd00:244:2::12/128", &[]),
        ];
        let (cidr, holes) = self.of(&blocks);
        let except: Vec<&str> = holes.iter().filter(|_| self.chance(40)).copied().collect();
        if except.is_empty() {
            json!({"ipBlock": {"cidr": cidr}})
        } else {
            json!({"ipBlock": {"cidr": cidr, "except": except}})
        }
    }

    fn peer(&mut self) -> Value {
        match self.below(4) {
            0 => json!({"podSelector": self.pods()}),
            1 => json!({"namespaceSelector": self.namespaces()}),
            2 => json!({"namespaceSelector": self.namespaces(), "podSelector": self.pods()}),
            _ => self.block(),
        }
    }

    fn port(&mut self) -> Value {
        let protocol = self.of(&["TCP", "UDP", "SCTP"]);
        match self.below(5) {
            0 => json!({"protocol": protocol}),
            1 => json!({"port": self.of(&["web", "dns", "signal"]), "protocol": protocol}),
            2 => {
                let (first, last) = self.of(&[(7000, 7001), (7001, 7002), (7002, 7002), (1, 65535), (6000, 7000)]);
                json!({"port": first, "endPort": last, "protocol": protocol})
            }
            _ => json!({"port": self.of(&[7001, 7002]), "protocol": protocol}),
        }
    }

    fn rules(&mut self, side: &str) -> Value {
        let rules = (0..self.below(3)).map(|_| {
            let mut rule = Map::new();
            if self.chance(75) {
                rule.insert(side.into(), (0..=self.below(2)).map(|_| self.peer()).collect());
            }
            if self.chance(60) {
                rule.insert("ports".into(), (0..=self.below(2)).map(|_| self.port()).collect());
            }
            Value::Object(rule)
        });
        rules.collect()
    }

    fn policy(&mut self) -> Value {
        let mut spec = Map::from_iter([("podSelector".to_owned(), self.pods())]);
        let direction = self.below(4);
        if direction != 1 {
            spec.insert("ingress".into(), self.rules("from"));
        }
        if direction != 0 {
            spec.insert("egress".into(), self.rules("to"));
        }
        let types: Option<&[&str]> = match direction {
            0 => None,
            1 => Some(&["Egress"]),
            2 => Some(&["Ingress", "Egress"]),
            _ => Some(&["Ingress"]),
        };
        if let Some(types) = types {
            spec.insert("policyTypes".into(), json!(types));
        }
        Value::Object(spec)
    }

    /// Puts another pod in the place of one, with its address.
    fn replace_pod(&mut self, world: &mut World) -> String {
        let (number, case) = (self.below(world.pods.len()), world.case);
        let Some(pod) = world.pods.get_mut(number) else { return String::new() };
        pod.namespace = self.of(&NAMESPACES);
        pod.name = format!("r{case}");
        pod.labels = labels(&[("app", self.of(&["a", "b", "c"]))]);
        pod.ports =
            vec![("web", self.of(&[7001, 7002]), Protocol::Tcp), ("dns", self.of(&[7001, 7002]), Protocol::Udp)];
        format!("the address of pod {number} goes to {}/{}", pod.namespace, pod.name)
    }

    /// Changes one thing, and says what.
    pub(super) fn change(&mut self, world: &mut World) -> String {
        let known: Vec<_> = world.policies.keys().cloned().collect();
        let what = self.below(100);
        if known.len() > MOST_POLICIES || (what < 12 && !known.is_empty()) {
            let gone = self.of(&known);
            world.policies.remove(&gone);
            return format!("policy {}/{} goes", gone.0, gone.1);
        }
        if what < 30 && !known.is_empty() {
            let key = self.of(&known);
            let spec = self.policy();
            world.put(&key.0, &key.1, spec);
            return format!("policy {}/{} is rewritten", key.0, key.1);
        }
        match what {
            0..70 => {
                let (namespace, name) = (self.of(&NAMESPACES), format!("p{}", world.case));
                world.put(namespace, &name, self.policy());
                format!("policy {namespace}/{name} is new")
            }
            70..80 => {
                let number = self.below(world.pods.len());
                let new = labels(&[("app", self.of(&["a", "b", "c"])), ("tier", self.of(&["front", "back"]))]);
                if let Some(pod) = world.pods.get_mut(number) {
                    pod.labels = new;
                }
                format!("pod {number} has other labels")
            }
            80..88 => {
                let name = self.of(&NAMESPACES);
                let new = if self.chance(20) { labels(&[]) } else { labels(&[("team", self.of(&["red", "blue"]))]) };
                world.namespaces.insert(name, new);
                format!("namespace {name} has other labels")
            }
            88..94 => {
                let (one, other) = (self.below(world.pods.len()), self.below(world.pods.len()));
                world.pods.swap(one, other);
                format!("pods {one} and {other} exchange their addresses")
            }
            _ => self.replace_pod(world),
        }
    }
}
