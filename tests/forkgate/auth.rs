//! Who may come in: open paths, the 401 that says what to do, tokens as ContextForge makes them, foreign hosts.

use std::time::Duration;

use forkgate_tests::gateway::{Gateway, Setup};
use forkgate_tests::http::Request;
use forkgate_tests::mcp::Endpoint;
use forkgate_tests::runner::Test;
use forkgate_tests::skip::Verdict;
use forkgate_tests::token;
use serde_json::{Value, json};

pub const TESTS: &[Test] = &[
    Test { name: "open_paths_need_no_token", limit: Duration::from_secs(60), run: open_paths },
    Test { name: "no_token_is_401_that_says_what_to_do", limit: Duration::from_secs(60), run: no_token },
    Test {
        name: "tokens_are_checked_like_contextforges",
        limit: Duration::from_secs(60),
        run: claims_are_checked,
    },
    Test {
        name: "foreign_hosts_and_origins_are_refused",
        limit: Duration::from_secs(60),
        run: foreign_hosts,
    },
];

fn open_paths() -> Verdict {
    let gateway = Setup::new().start();
    for path in ["/", "/health", "/ready", "/version"] {
        let answer = gateway.exchange(&Request::new("GET", path));
        assert_eq!(answer.status(), 200, "{path} (no upstream is registered): {}", answer.text());
    }
    gateway.stop();
    Ok(())
}

fn no_token() -> Verdict {
    let gateway = Setup::new().start();
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let requests = [
        Request::new("POST", "/mcp").json(body),
        Request::new("GET", "/mcp"),
        Request::new("DELETE", "/mcp"),
        Request::new("POST", "/servers/x/mcp").json(body),
        Request::new("POST", "/upstreams/x/mcp").json(body),
        Request::new("GET", "/v1/gateways"),
        Request::new("GET", "/gateways"),
        Request::new("GET", "/v1/tools"),
        Request::new("GET", "/v1/servers"),
    ];
    for request in requests {
        let answer = gateway.exchange(&request);
        let what = format!("{} {}: {}", request.method, request.path, answer.text());
        assert_eq!(answer.status(), 401, "{what}");
        let challenge = answer.head.header("www-authenticate").unwrap_or_default();
        assert!(challenge.starts_with("Bearer"), "{what}: challenge {challenge:?}");
        assert!(answer.text().contains("forkgate token create"), "it says what to do: {what}");
    }
    gateway.stop();
    Ok(())
}

fn status_with(gateway: &Gateway, claims: &Value, secret: &str) -> u16 {
    let endpoint = Endpoint { path: "/mcp".to_owned(), token: token::sign(claims, secret) };
    gateway.exchange(&endpoint.modern(1, "tools/list", None, "", "")).status()
}

fn claims_are_checked() -> Verdict {
    let gateway = Setup::new().start();
    let good = token::claims("somebody@example.com");
    assert_eq!(status_with(&gateway, &good, token::SECRET), 200, "a token as ContextForge makes it");
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().expect("an object").remove(name);
        claims
    };
    let bad = [
        ("another audience", with("aud", json!("somewhere-else"))),
        ("another issuer", with("iss", json!("somebody-else"))),
        ("expired", with("exp", json!(1_700_000_000))),
        ("without exp", without("exp")),
        ("without jti", without("jti")),
        ("without aud", without("aud")),
        ("without iss", without("iss")),
    ];
    for (what, claims) in bad {
        assert_eq!(status_with(&gateway, &claims, token::SECRET), 401, "{what}");
    }
    assert_eq!(
        status_with(&gateway, &good, "another-secret-of-sufficient-length-0123456789"),
        401,
        "another secret"
    );
    let endpoint = Endpoint { path: "/mcp".to_owned(), token: "not.a.token".to_owned() };
    assert_eq!(gateway.exchange(&endpoint.modern(1, "tools/list", None, "", "")).status(), 401, "nonsense");
    gateway.stop();
    Ok(())
}

fn foreign_hosts() -> Verdict {
    let gateway = Setup::new().start();
    let request = || gateway.federated().modern(1, "tools/list", None, "", "");
    let foreign_host = gateway.exchange(&request().header("Host", "evil.example"));
    assert!(
        matches!(foreign_host.status(), 400 | 403 | 421),
        "Host: {} {}",
        foreign_host.status(),
        foreign_host.text()
    );
    let foreign_origin = gateway.exchange(&request().header("Origin", "http://evil.example"));
    assert_eq!(foreign_origin.status(), 403, "Origin: {}", foreign_origin.text());
    let own = gateway.exchange(&request().header("Host", format!("localhost:{}", gateway.address.port())));
    assert_eq!(own.status(), 200, "a loopback name: {}", own.text());
    gateway.stop();
    Ok(())
}
