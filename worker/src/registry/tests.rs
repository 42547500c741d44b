//! The database from an empty file to a compiled catalog, in the way the migrate child and the API use it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;

use serde_json::value::RawValue;
use sqlx::{Connection, SqliteConnection};

use super::change::{self, ChangeError, Choice, NewGateway, NewServer, Offer};
use super::credentials::Credentials;
use super::migrate::{BootError, prepare};
use super::records::{self, Page};
use super::*;
use crate::catalog::compile::Compiled;
use crate::catalog::{Catalog, Endpoint, Kind, UpstreamEra};
use crate::failure::Era;

/// Runs a test body as a worker would: one thread, local tasks.
fn on_one_thread<F: Future>(body: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    tokio::task::LocalSet::new().block_on(&runtime, body)
}

fn registry(path: &Path) -> Registry {
    Registry {
        path: path.to_owned(),
        separator: "__".to_owned(),
        open: RefCell::new(None),
        registrations: Semaphore::new(1),
        aside: Aside::new(),
        changing: Semaphore::new(1),
    }
}

fn gateway(name: &str) -> NewGateway {
    NewGateway {
        id: format!("id-{name}"),
        name: name.to_owned(),
        slug: crate::catalog::slug::slug(name, "__").expect("slug"),
        url: "http://127.0.0.1:1/mcp".to_owned(),
        description: None,
        credentials: Credentials::Bearer { token: "t".to_owned() },
        tags: "[]".to_owned(),
        created_by: "tester".to_owned(),
    }
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).expect("json")
}

fn offer(tools: &[&str]) -> Offer {
    Offer {
        era: UpstreamEra::Legacy { version: "2025-11-25".to_owned() },
        server_info: raw("{}"),
        capabilities: raw(r#"{"tools":{}}"#),
        instructions: None,
        items: [
            tools.iter().map(|tool| raw(tool)).collect(),
            vec![raw(r#"{"uri":"u://1","name":"one"}"#)],
            vec![raw(r#"{"uriTemplate":"u://{x}","name":"x"}"#)],
            vec![raw(r#"{"name":"greet"}"#)],
        ],
    }
}

fn tools(compiled: &Compiled, endpoint: Endpoint) -> String {
    let catalog = Catalog::from_snapshot(compiled.bytes.clone().into()).expect("loads");
    let list = catalog.view(&endpoint).expect("view").list(Kind::Tools, Era::Modern);
    String::from_utf8(list.to_vec()).expect("utf-8")
}

#[test]
fn a_new_file_is_private_and_migrating_again_changes_nothing() {
    on_one_thread(async {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("deep/registry.db");
        let first = prepare(&path, "__").await.expect("prepares");
        assert_eq!((first.generation, tools(&first, Endpoint::Federated).as_str()), (1, "[]"));
        let mode = std::fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = prepare(&path, "__").await.expect("prepares");
        assert_eq!(again.generation, 1);
    });
}

#[test]
fn contextforges_database_is_refused_and_not_touched() {
    on_one_thread(async {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("mcp.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let mut connection = SqliteConnection::connect_with(&options).await.expect("connect");
        let sql = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)";
        sqlx::query(sql).execute(&mut connection).await.expect("create");
        connection.close().await.expect("close");
        let before = std::fs::read(&path).expect("read");
        let error = prepare(&path, "__").await.expect_err("refused");
        assert!(matches!(error, BootError::ContextForge(_)), "{error}");
        assert_eq!(std::fs::read(&path).expect("read"), before);
    });
}

#[test]
fn a_file_that_is_no_database_is_refused_with_its_name() {
    on_one_thread(async {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("notes.txt");
        std::fs::write(
            &path,
            "this is a text and certainly not a database, however long one looks at it\n".repeat(50),
        )
        .expect("write");
        let error = prepare(&path, "__").await.expect_err("refused");
        assert!(error.to_string().contains("notes.txt"), "{error}");
    });
}

#[test]
fn a_registration_is_compiled_and_survives_byte_for_byte() {
    on_one_thread(async {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("registry.db");
        prepare(&path, "__").await.expect("prepares");
        let registry = registry(&path);
        let odd = r#"{ "n":1.0e0,"name":"odd" , "inputSchema":{"type":"object"},"x/y":"\u00e9" }"#;
        let twice = [odd, r#"{"name":"odd"}"#, r#"{"title":"nameless"}"#, r#"{"name":"a\r\nX-Evil: 1"}"#];
        let compiled =
            change::add_gateway(&registry, 0, &gateway("My Up"), &offer(&twice)).await.expect("added");
        assert_eq!(compiled.generation, 2);
        assert_eq!(tools(&compiled, Endpoint::Upstream("My Up".to_owned())), format!("[{odd}]"));
        assert_eq!(
            tools(&compiled, Endpoint::Federated),
            format!("[{}]", odd.replace(r#""odd""#, r#""my-up__odd""#))
        );
        let mut connection = registry.pool().await.expect("pool").acquire().await.expect("connection");
        let row = records::gateway(&mut connection, "id-My Up").await.expect("reads").expect("there");
        assert_eq!((row.tool_count, row.interned_index), (1, 0));
        assert_eq!(row.skipped_tools, r#"["odd","(without a usable name)","(without a usable name)"]"#);
        drop(connection);
        assert_eq!(prepare(&path, "__").await.expect("prepares").bytes, compiled.bytes);
    });
}

#[test]
fn taken_names_are_conflicts_and_change_nothing() {
    on_one_thread(async {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("registry.db");
        prepare(&path, "-").await.expect("prepares");
        let mut registry = registry(&path);
        registry.separator = "-".to_owned();
        change::add_gateway(&registry, 0, &gateway("a"), &offer(&[r#"{"name":"b-c"}"#]))
            .await
            .expect("added");
        for (name, tool) in [("a", "x"), ("A!", "x"), ("a-b", "c")] {
            let tool = format!(r#"{{"name":"{tool}"}}"#);
            let mut new = gateway(name);
            new.id = "another".to_owned();
            let error = change::add_gateway(&registry, 0, &new, &offer(&[&tool])).await.expect_err("refused");
            assert!(
                matches!(error, ChangeError::GatewayTaken { .. } | ChangeError::Collision { .. }),
                "{error}"
            );
        }
        let mut connection = registry.pool().await.expect("pool").acquire().await.expect("connection");
        assert_eq!(generation(&mut connection).await.expect("reads"), 3);
    });
}

#[test]
fn of_two_registrations_of_one_name_at_a_time_one_wins() {
    on_one_thread(async {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("registry.db");
        prepare(&path, "__").await.expect("prepares");
        let (one, two) = (registry(&path), registry(&path));
        let (mut first, mut second) = (gateway("same"), gateway("same"));
        (first.id, second.id) = ("1".to_owned(), "2".to_owned());
        let offer = offer(&[]);
        let (a, b) = tokio::join!(
            change::add_gateway(&one, 0, &first, &offer),
            change::add_gateway(&two, 0, &second, &offer)
        );
        let errors: Vec<_> = [a, b].into_iter().filter_map(Result::err).collect();
        assert!(matches!(errors.as_slice(), [ChangeError::GatewayTaken { .. }]), "{errors:?}");
    });
}

#[test]
fn a_new_upstream_does_not_inherit_the_counts_of_a_removed_one() {
    on_one_thread(async {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("registry.db");
        prepare(&path, "__").await.expect("prepares");
        let registry = registry(&path);
        let offer = offer(&[]);
        for (name, cell) in [("a", 0), ("b", 1)] {
            change::add_gateway(&registry, 0, &gateway(name), &offer).await.expect("added");
            let mut connection = registry.pool().await.expect("pool").acquire().await.expect("connection");
            let id = format!("id-{name}");
            let row = records::gateway(&mut connection, &id).await.expect("reads").expect("there");
            assert_eq!(row.interned_index, cell, "{name}");
            drop(connection);
            change::remove_gateway(&registry, 0, &id).await.expect("removed");
        }
    });
}

#[test]
fn a_lock_that_somebody_holds_is_told_and_not_waited_for() {
    on_one_thread(async {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("registry.db");
        prepare(&path, "__").await.expect("prepares");
        let registry = registry(&path);
        let options = connect_options(&path, Duration::ZERO);
        let mut other = SqliteConnection::connect_with(&options).await.expect("connect");
        let held = other.begin_with("BEGIN IMMEDIATE").await.expect("the lock");
        let (new, offer) = (gateway("up"), offer(&[]));
        // Far beyond the wait for a lock, and below the one that SQLite's users usually set.
        let told =
            tokio::time::timeout(Duration::from_secs(3), change::add_gateway(&registry, 0, &new, &offer));
        let error = told.await.expect("told soon").expect_err("locked");
        assert!(matches!(error, ChangeError::Registry(RegistryError::Locked)), "{error}");
        held.rollback().await.expect("rollback");
        change::add_gateway(&registry, 0, &new, &offer).await.expect("works again");
    });
}

#[test]
fn changes_of_many_workers_at_a_time_all_succeed() {
    on_one_thread(async {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("registry.db");
        prepare(&path, "__").await.expect("prepares");
        let offer = Rc::new(offer(&[r#"{"name":"t"}"#]));
        let registered = (0..4).map(|number| {
            let (registry, offer) = (registry(&path), Rc::clone(&offer));
            task::spawn("registration", async move {
                change::add_gateway(&registry, 0, &gateway(&format!("up{number}")), &offer).await
            })
        });
        for registered in registered.collect::<Vec<_>>() {
            registered.await.expect("runs").expect("registered");
        }
    });
}

#[test]
fn a_server_offers_what_it_names_until_the_upstream_goes() {
    on_one_thread(async {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("registry.db");
        prepare(&path, "__").await.expect("prepares");
        let registry = registry(&path);
        let two = [r#"{"name":"one"}"#, r#"{"name":"two"}"#];
        change::add_gateway(&registry, 0, &gateway("up"), &offer(&two)).await.expect("added");
        let mut connection = registry.pool().await.expect("pool").acquire().await.expect("connection");
        let all = Page { after: 0, limit: 10 };
        let items = records::items(&mut connection, Kind::Tools, Some("id-up"), all).await.expect("reads");
        let template =
            records::items(&mut connection, Kind::Templates, None, all).await.expect("reads").remove(0);
        drop(connection);
        let mut new = NewServer {
            id: "s".to_owned(),
            name: "S".to_owned(),
            tags: "[]".to_owned(),
            tools: vec![Choice { id: items[1].id.clone(), name: Some("mine".to_owned()) }],
            resources: vec![Choice { id: template.id, name: None }],
            ..NewServer::default()
        };
        let compiled = change::add_server(&registry, 0, &new).await.expect("added");
        let server = || Endpoint::Server("s".to_owned());
        assert_eq!(tools(&compiled, server()), r#"[{"name":"mine"}]"#);
        assert!(matches!(change::add_server(&registry, 0, &new).await, Err(ChangeError::ServerTaken(_))));
        (new.id, new.name) = ("s2".to_owned(), "S2".to_owned());
        new.tools.push(Choice { id: items[0].id.clone(), name: Some("mine".to_owned()) });
        assert!(matches!(change::add_server(&registry, 0, &new).await, Err(ChangeError::Collision { .. })));
        new.tools = vec![Choice { id: "nothing".to_owned(), name: None }];
        assert!(matches!(change::add_server(&registry, 0, &new).await, Err(ChangeError::NoSuchItem { .. })));
        let compiled = change::remove_gateway(&registry, 0, "id-up").await.expect("removed");
        assert_eq!(tools(&compiled, server()), "[]");
        change::remove_server(&registry, 0, "s").await.expect("removed");
        assert!(matches!(change::remove_server(&registry, 0, "s").await, Err(ChangeError::NotFound { .. })));
    });
}

#[test]
fn another_separator_is_a_change_and_a_restored_copy_catches_up() {
    on_one_thread(async {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("registry.db");
        prepare(&path, "__").await.expect("prepares");
        let registry = registry(&path);
        let compiled = change::add_gateway(&registry, 40, &gateway("up"), &offer(&[r#"{"name":"t"}"#])).await;
        assert_eq!(compiled.expect("added").generation, 41);
        let dashed = prepare(&path, "-").await.expect("prepares");
        assert_eq!(
            (dashed.generation, tools(&dashed, Endpoint::Federated).as_str()),
            (42, r#"[{"name":"up-t"}]"#)
        );
        assert_eq!(prepare(&path, "-").await.expect("prepares").generation, 42);
    });
}

#[test]
fn a_database_that_was_away_comes_back_by_itself() {
    on_one_thread(async {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("registry.db");
        let registry = registry(&path);
        assert!(matches!(registry.pool().await, Err(RegistryError::Away { .. })));
        prepare(&path, "__").await.expect("prepares");
        change::add_gateway(&registry, 0, &gateway("up"), &offer(&[])).await.expect("added");
        let hidden = dir.path().join("hidden.db");
        std::fs::rename(&path, &hidden).expect("rename");
        assert!(matches!(
            change::remove_gateway(&registry, 0, "id-up").await.err(),
            Some(ChangeError::Registry(_))
        ));
        tokio::task::yield_now().await;
        std::fs::rename(&hidden, &path).expect("rename");
        change::add_server(
            &registry,
            0,
            &NewServer { id: "s".into(), name: "s".into(), ..NewServer::default() },
        )
        .await
        .expect("works again");
    });
}
