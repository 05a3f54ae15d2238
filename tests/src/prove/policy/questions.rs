//! Random questions, the same in each run.

use serde_json::{Map, Value, json};

/// What they are drawn with.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// A number below `sides`.
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % 1_000_003).unwrap() % sides
    }

    fn of(&mut self, choices: &[Value]) -> Value {
        choices[self.roll(choices.len())].clone()
    }

    /// Up to three of them.
    fn some(&mut self, choices: &[Value]) -> Value {
        (0..self.roll(4)).map(|_| self.of(choices)).collect()
    }

    /// An object with some of the members.
    fn object(&mut self, members: &[(&str, &[Value])]) -> Value {
        let mut object = Map::new();
        for (name, choices) in members {
            if self.roll(4) > 0 {
                object.insert((*name).to_owned(), self.of(choices));
            }
        }
        Value::Object(object)
    }

    /// A question for the policies of `tests/policy`.
    pub(super) fn question(&mut self) -> Value {
        let roles = [json!("reader"), json!("writer"), json!("admin"), json!("guest")];
        let scopes = [json!("base"), json!("tools:read"), json!("risk:high"), json!("risk:medium")];
        let mut principal = self.object(&[
            ("subject", &[json!("anna"), json!("a.b.bot"), json!("Bert7")]),
            ("mfa", &[json!(true), json!(false)]),
        ]);
        principal["roles"] = self.some(&roles);
        principal["scopes"] = self.some(&scopes);
        principal["claims"] = self.object(&[
            ("suspended", &[json!(true), json!(false), json!("no")]),
            ("level", &[json!(1), json!(2), json!("2")]),
            ("region", &[json!("eu"), json!("us")]),
            ("version", &[json!("1.2.3"), json!("1.1.9"), json!("x")]),
        ]);
        let mut input = json!({
            "principal": principal,
            "mcp": {"name": self.of(&[json!("search"), json!("search.all"), json!("update_all"), json!("list"), json!("drop")])},
            "context": {"source_ip": self.of(&[json!("10.1.2.3"), json!("172.16.9.9"), json!("8.8.8.8"), json!("::1")])},
            "time": {"hour": self.roll(24), "weekday": self.of(&[json!("Monday"), json!("Sunday")]), "date": self.of(&[json!("2026-12-25"), json!("2026-07-28")])},
        });
        if self.roll(8) > 0 {
            input["tool"] = self.tool();
        }
        if self.roll(8) > 0 {
            input["mcp"]["arguments"] = self.arguments();
        }
        input
    }

    fn tool(&mut self) -> Value {
        let risks = [json!("low"), json!("medium"), json!("high"), json!("critical"), json!("unrated")];
        json!({"risk": self.of(&risks), "scopes": self.some(&[json!("tools:read"), json!("tools:write")])})
    }

    fn arguments(&mut self) -> Value {
        let item = [
            json!({"qty": 3}),
            json!({"qty": 2, "price": 4}),
            json!({"qty": 12, "price": 2}),
            json!({"qty": "many"}),
            json!({"price": 2}),
            json!(7),
        ];
        let items = [json!([]), self.some(&item), self.some(&item), json!("none"), json!({"a": {"qty": 9}})];
        self.object(&[
            ("region", &[json!("eu"), json!("EU"), json!("us"), json!("7"), json!(7), Value::Null]),
            (
                "n",
                &[
                    json!(0),
                    json!(1),
                    json!(2),
                    json!(4),
                    json!(5),
                    json!(7),
                    json!(3.5),
                    json!("4"),
                    json!(-1),
                ],
            ),
            ("amount", &[json!(5), json!(10), json!(15), json!(51), json!(1e3), json!("60"), json!([60])]),
            ("items", &items),
            (
                "text",
                &[
                    json!("OK then"),
                    json!("ok zz"),
                    json!("{\"a\":1}"),
                    json!("sk-1"),
                    json!(1),
                    json!("éok"),
                ],
            ),
            ("flag", &[json!(true), json!(false), Value::Null]),
            ("nothing", &[Value::Null, json!(0)]),
            (
                "token",
                &[
                    json!("eyJvayI6dHJ1ZX0="),
                    json!("!!"),
                    json!("eyJvayI6ZmFsc2V9"),
                    json!({"deep": ["sk-2"]}),
                ],
            ),
            ("size", &[json!("1MB"), json!("huge"), json!("2KiB")]),
        ])
    }

    /// A question for the samples: about what they speak of, and now and then of another shape.
    pub(super) fn sample(&mut self) -> Value {
        let mut input = json!({
            "principal": self.person(),
            "mcp": self.call(),
            "context": self.object(&[
                ("zone", &["office", "office", "vpn", "home"].map(Value::from)),
                ("justification", &["invoice 4711 of acme", "a good reason", "because", "  \t   x     ", ""].map(Value::from)),
            ]),
            "time": {
                "weekday": self.of(&["Monday", "Friday", "Saturday", "Sunday"].map(Value::from)),
                "hour": self.of(&[7, 8, 9, 12, 17, 18, 23].map(Value::from)),
                "date": self.of(&["2026-11-23", "2026-12-25", "2027-01-01"].map(Value::from)),
            },
        });
        if self.roll(6) > 0 {
            let risks = ["low", "medium", "high", "critical", "critical", "unrated"].map(Value::from);
            let names = ["find_customer", "create_offer", "send_campaign", "send_campaign", "transfer"];
            input["tool"] = self.object(&[("risk", &risks), ("original", &names.map(Value::from))]);
            input["tool"]["labels"] = self.some(&["payment", "regional", "external"].map(Value::from));
        }
        input
    }

    fn person(&mut self) -> Value {
        let roles =
            ["support", "sales", "reader", "member", "operator", "owner", "treasurer", "treasurer", "global"];
        let mut person = self.object(&[
            ("tenant", &[json!("acme"), json!("other")]),
            ("mfa", &[json!(true), json!(false)]),
            (
                "claims",
                &[
                    json!({"region": "eu", "grade": "junior"}),
                    json!({"region": "us", "grade": "senior"}),
                    json!({"grade": "senior"}),
                    json!({"grade": "chief"}),
                    json!({"region": null}),
                    json!({"region": ["eu"], "grade": ["junior"]}),
                ],
            ),
        ]);
        person["roles"] = self.some(&roles.map(Value::from));
        person["groups"] = self.some(&["hr", "finance", "marketing", "marketing", "sales"].map(Value::from));
        person
    }

    fn call(&mut self) -> Value {
        let kinds = ["tool", "tool", "tool", "tool", "prompt", "resource", "server", "stream"];
        let upstreams = ["crm", "wiki", "people", "ledger", "payroll_hr"];
        let mut call =
            self.object(&[("upstream", &upstreams.map(Value::from)), ("method", &[json!("tools/call")])]);
        call["kind"] = self.of(&kinds.map(Value::from));
        let many: Vec<u32> = (0..60).collect();
        let too_many: Vec<u32> = (0..10_001).collect();
        let amounts =
            [json!(900), json!(1000), json!(1001), json!(50_000.5), json!(-1), json!("900"), Value::Null];
        let regions = [json!("eu"), json!("us"), json!("moon"), json!(["eu"]), Value::Null];
        let recipients = [json!([]), json!(["a"]), json!(many), json!(too_many), json!("everyone"), json!(7)];
        if self.roll(8) > 0 {
            call["arguments"] =
                self.object(&[("amount", &amounts), ("region", &regions), ("recipients", &recipients)]);
        }
        call
    }
}
