//! Reads everything that the catalog is compiled from.

use std::collections::HashMap;
use std::thread;

use sqlx::{AssertSqlSafe, SqliteConnection};
use tokio::sync::oneshot;

use super::RegistryError;
use super::records::{self, GatewayRecord, Page, association, table};
use crate::catalog::compile::{Compiled, compile};
use crate::catalog::source::{Item, Pick, Source, SourceServer, SourceUpstream};
use crate::catalog::{Kind, UpstreamEntry};

/// The whole of a table.
const ALL: Page = Page { after: 0, limit: i64::MAX };

/// The generation of the newest change.
pub async fn generation(connection: &mut SqliteConnection) -> Result<u64, RegistryError> {
    let stored: i64 =
        sqlx::query_scalar("SELECT generation FROM meta WHERE id = 1").fetch_one(connection).await?;
    u64::try_from(stored).map_err(|_| RegistryError::Damaged("meta.generation"))
}

/// All rows; call it inside a transaction, so that they are of one moment. Upstreams come in the order of their
/// registration: what is registered later never takes a name away from what was there.
///
/// The separator is the stored one: while a reload rolls, workers with old and new settings compile the same names.
pub async fn load(connection: &mut SqliteConnection) -> Result<Source, RegistryError> {
    let generation = generation(connection).await?;
    let separator = sqlx::query_scalar("SELECT tool_name_separator FROM meta WHERE id = 1")
        .fetch_one(&mut *connection)
        .await?;
    let mut upstreams = Vec::new();
    let mut by_gateway = HashMap::new();
    for record in records::gateways(connection, ALL).await?.into_iter().filter(|record| record.enabled) {
        by_gateway.insert(record.id.clone(), upstreams.len());
        upstreams.push(SourceUpstream {
            entry: entry(record)?,
            tools: Vec::new(),
            resources: Vec::new(),
            templates: Vec::new(),
            prompts: Vec::new(),
        });
    }
    for kind in Kind::ALL {
        for (gateway_id, item) in items(connection, kind).await? {
            let Some(&number) = by_gateway.get(&gateway_id) else { continue };
            let upstream: &mut SourceUpstream = &mut upstreams[number];
            match kind {
                Kind::Tools => upstream.tools.push(item),
                Kind::Resources => upstream.resources.push(item),
                Kind::Templates => upstream.templates.push(item),
                Kind::Prompts => upstream.prompts.push(item),
            }
        }
    }
    let servers = servers(connection).await?;
    Ok(Source { generation, separator, upstreams, servers })
}

/// Compiles rows outside of the event loop: thousands of tools take longer than a request should wait. On a thread of its
/// own, because a change holds the write lock meanwhile, and the blocking pool may be full of name lookups that hang.
pub async fn compile_aside(source: Source) -> Result<Compiled, RegistryError> {
    let (done, compiled) = oneshot::channel();
    let compiler = thread::Builder::new().name("catalog-compile".to_owned());
    compiler
        .spawn(move || {
            // Nobody waits any more when the worker is ending.
            let _ = done.send(compile(&source));
        })
        .map_err(RegistryError::NoCompiler)?;
    Ok(compiled.await.map_err(|_| RegistryError::CompilerDied)??)
}

fn entry(record: GatewayRecord) -> Result<UpstreamEntry, RegistryError> {
    let headers = record.credentials()?.headers();
    Ok(UpstreamEntry {
        headers,
        era: serde_json::from_str(&record.era).map_err(|_| RegistryError::Damaged("gateways.era"))?,
        index: usize::try_from(record.interned_index)
            .map_err(|_| RegistryError::Damaged("gateways.interned_index"))?,
        id: record.id,
        name: record.name,
        slug: record.slug,
        url: record.url,
        capabilities: record.capabilities,
        instructions: record.instructions,
    })
}

async fn items(connection: &mut SqliteConnection, kind: Kind) -> Result<Vec<(String, Item)>, RegistryError> {
    let (table, key) = table(kind);
    let sql = format!("SELECT gateway_id, id, {key}, definition FROM {table} ORDER BY seq");
    let rows: Vec<(String, String, String, String)> =
        sqlx::query_as(AssertSqlSafe(sql)).fetch_all(connection).await?;
    let item = |(gateway_id, id, key, definition)| (gateway_id, Item { id, key, definition });
    Ok(rows.into_iter().map(item).collect())
}

async fn servers(connection: &mut SqliteConnection) -> Result<Vec<SourceServer>, RegistryError> {
    let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM servers WHERE enabled ORDER BY seq")
        .fetch_all(&mut *connection)
        .await?;
    let number: HashMap<String, usize> = ids.iter().cloned().zip(0..).collect();
    let mut servers: Vec<SourceServer> =
        ids.into_iter().map(|id| SourceServer { id, ..SourceServer::default() }).collect();
    for kind in Kind::ALL {
        let (pairs, column, named) = association(kind);
        let name = if named { "exposed_name" } else { "NULL" };
        let sql = format!("SELECT server_id, {column}, {name} FROM {pairs} ORDER BY seq");
        let rows: Vec<(String, String, Option<String>)> =
            sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut *connection).await?;
        for (server_id, id, name) in rows {
            let Some(&number) = number.get(&server_id) else { continue };
            let server = &mut servers[number];
            let picks = match kind {
                Kind::Tools => &mut server.tools,
                Kind::Resources => &mut server.resources,
                Kind::Templates => &mut server.templates,
                Kind::Prompts => &mut server.prompts,
            };
            picks.push(Pick { id, name });
        }
    }
    Ok(servers)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn compiling_does_not_wait_for_lookups_that_hang() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build();
        runtime.expect("runtime").block_on(async {
            let (release, hang) = sync_channel::<()>(0);
            tokio::task::spawn_blocking(move || hang.recv());
            let source = Source {
                generation: 7,
                separator: "__".to_owned(),
                upstreams: Vec::new(),
                servers: Vec::new(),
            };
            let compiled =
                tokio::time::timeout(std::time::Duration::from_secs(10), compile_aside(source)).await;
            drop(release);
            assert_eq!(compiled.expect("in time").expect("compiles").generation, 7);
        });
    }
}
