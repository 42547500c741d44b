//! Changes of the registry: each is one transaction that also counts the generation and compiles the catalog.
//!
//! `served` is everywhere the generation of the catalog that the caller serves from.

use std::collections::HashSet;

use forkgate_shared::rows::UPSTREAMS;
use serde_json::value::RawValue;
use sqlx::{AssertSqlSafe, QueryBuilder, Sqlite, SqliteConnection, Transaction};

use super::credentials::Credentials;
use super::records::{association, table};
use super::{Registry, RegistryError, source};
use crate::catalog::compile::{Collision, Compiled};
use crate::catalog::splice::Object;
use crate::catalog::{Kind, MAX_ITEMS, UpstreamEra};

/// Longest name or URI of an item, in bytes: ContextForge's limit for URLs. Names end in headers, logs and prompts, so
/// control characters have no place in them either.
const MAX_KEY: usize = 2048;
/// Rows of one INSERT: six values each, far below SQLite's 32 766 (limits, "Maximum Number Of Host Parameters").
const ROWS_PER_INSERT: usize = 200;
/// Takes the write lock at once, so that what a change reads is still true when it writes.
const BEGIN: &str = "BEGIN IMMEDIATE";
/// ISO 8601, as ContextForge writes times; SQLite's clock saves a crate.
const NOW: &str = "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";

/// What an upstream offers, as it was read at registration.
pub struct Offer {
    /// As probed.
    pub era: UpstreamEra,
    /// Its `serverInfo` object.
    pub server_info: Box<RawValue>,
    /// Its `capabilities` object.
    pub capabilities: Box<RawValue>,
    /// Its `instructions`.
    pub instructions: Option<String>,
    /// Items by kind: tools, resources, templates, prompts; byte for byte.
    pub items: [Vec<Box<RawValue>>; 4],
}

/// An upstream to register.
pub struct NewGateway {
    /// Registry id.
    pub id: String,
    /// Name, unique.
    pub name: String,
    /// Prefix, unique.
    pub slug: String,
    /// Where it is.
    pub url: String,
    /// For people.
    pub description: Option<String>,
    /// What it wants to see.
    pub credentials: Credentials,
    /// JSON array.
    pub tags: String,
    /// Subject of the administrator.
    pub created_by: String,
}

/// An item that a new virtual server is to offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Registry id of the item.
    pub id: String,
    /// The name that the owner chose.
    pub name: Option<String>,
}

/// A virtual server to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewServer {
    /// Registry id.
    pub id: String,
    /// Name, unique.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// For people.
    pub icon: Option<String>,
    /// JSON array.
    pub tags: String,
    /// Subject of the administrator.
    pub created_by: String,
    /// Tools.
    pub tools: Vec<Choice>,
    /// Resources and resource templates.
    pub resources: Vec<Choice>,
    /// Prompts.
    pub prompts: Vec<Choice>,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The database.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Another one has this name, or a name with the same prefix.
    #[error("Gateway name already exists: {name:?} has the prefix {slug:?}, which is taken by {other:?}")]
    GatewayTaken {
        /// The wanted name.
        name: String,
        /// Its slug.
        slug: String,
        /// Who has it.
        other: String,
    },
    /// Another one has this name or id.
    #[error("Server name already exists: {0:?}; choose another name or delete that server first")]
    ServerTaken(String),
    /// Two items would have the same name at one endpoint.
    #[error("the name {name:?} of upstream {upstream:?} is taken at this endpoint; choose another name")]
    Collision {
        /// The name.
        name: String,
        /// Whose item came second.
        upstream: String,
    },
    /// No such row.
    #[error("{what} not found: {id}")]
    NotFound {
        /// `Gateway` or `Server`.
        what: &'static str,
        /// What was asked for.
        id: String,
    },
    /// A virtual server names an item that is not registered.
    #[error("{field}: there is no item with id {id:?}; GET /v1/{collection} lists them")]
    NoSuchItem {
        /// The field of the request.
        field: &'static str,
        /// Where to look.
        collection: &'static str,
        /// The id.
        id: String,
    },
    /// An upstream lists more than [`MAX_ITEMS`].
    #[error("the upstream lists {0} {1}; the most that is accepted is {MAX_ITEMS}")]
    TooMany(usize, &'static str),
}

impl From<sqlx::Error> for ChangeError {
    fn from(error: sqlx::Error) -> Self {
        ChangeError::Registry(error.into())
    }
}

/// Who has a gateway's name or prefix, if anybody.
pub async fn gateway_holder(
    connection: &mut SqliteConnection,
    name: &str,
    slug: &str,
) -> Result<Option<String>, RegistryError> {
    let query = sqlx::query_scalar("SELECT name FROM gateways WHERE name = $1 OR slug = $2");
    Ok(query.bind(name).bind(slug).fetch_optional(connection).await?)
}

/// Registers an upstream with everything it offers.
pub async fn add_gateway(
    registry: &Registry,
    served: u64,
    new: &NewGateway,
    offer: &Offer,
) -> Result<Compiled, ChangeError> {
    let mut tx = registry.pool().await?.begin_with(BEGIN).await?;
    if let Some(other) = gateway_holder(&mut tx, &new.name, &new.slug).await? {
        return Err(ChangeError::GatewayTaken { name: new.name.clone(), slug: new.slug.clone(), other });
    }
    let now: String = sqlx::query_scalar(NOW).fetch_one(&mut *tx).await?;
    let [tools, resources, templates, prompts] = &offer.items;
    insert_gateway(&mut tx, new, offer, &now, &tools_left_out(tools)).await?;
    for (kind, items) in [
        (Kind::Tools, tools),
        (Kind::Resources, resources),
        (Kind::Templates, templates),
        (Kind::Prompts, prompts),
    ] {
        insert_items(&mut tx, kind, &new.id, items, &now).await?;
    }
    finish(tx, served, |collision| collision.server.is_none() && collision.upstream == new.name).await
}

/// Removes an upstream; its items go with it, also out of virtual servers.
pub async fn remove_gateway(registry: &Registry, served: u64, id: &str) -> Result<Compiled, ChangeError> {
    let mut tx = registry.pool().await?.begin_with(BEGIN).await?;
    let gone = sqlx::query("DELETE FROM gateways WHERE id = $1").bind(id).execute(&mut *tx).await?;
    if gone.rows_affected() == 0 {
        return Err(ChangeError::NotFound { what: "Gateway", id: id.to_owned() });
    }
    finish(tx, served, |_| false).await
}

/// Makes a virtual server.
pub async fn add_server(registry: &Registry, served: u64, new: &NewServer) -> Result<Compiled, ChangeError> {
    let mut tx = registry.pool().await?.begin_with(BEGIN).await?;
    let holder: Option<String> = sqlx::query_scalar("SELECT name FROM servers WHERE name = $1 OR id = $2")
        .bind(&new.name)
        .bind(&new.id)
        .fetch_optional(&mut *tx)
        .await?;
    if let Some(other) = holder {
        return Err(ChangeError::ServerTaken(other));
    }
    let now: String = sqlx::query_scalar(NOW).fetch_one(&mut *tx).await?;
    sqlx::query(
        "INSERT INTO servers (id, name, description, icon, tags, created_by, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
    )
    .bind(&new.id)
    .bind(&new.name)
    .bind(&new.description)
    .bind(&new.icon)
    .bind(&new.tags)
    .bind(&new.created_by)
    .bind(&now)
    .execute(&mut *tx)
    .await?;
    for choice in &new.tools {
        associate(&mut tx, &[Kind::Tools], &new.id, choice).await?.or_missing(
            "associatedTools",
            "tools",
            choice,
        )?;
    }
    for choice in &new.resources {
        let kinds = [Kind::Resources, Kind::Templates];
        associate(&mut tx, &kinds, &new.id, choice).await?.or_missing(
            "associatedResources",
            "resources",
            choice,
        )?;
    }
    for choice in &new.prompts {
        let found = associate(&mut tx, &[Kind::Prompts], &new.id, choice).await?;
        found.or_missing("associatedPrompts", "prompts", choice)?;
    }
    finish(tx, served, |collision| collision.server.as_deref() == Some(&new.id)).await
}

/// Removes a virtual server; the items stay.
pub async fn remove_server(registry: &Registry, served: u64, id: &str) -> Result<Compiled, ChangeError> {
    let mut tx = registry.pool().await?.begin_with(BEGIN).await?;
    let gone = sqlx::query("DELETE FROM servers WHERE id = $1").bind(id).execute(&mut *tx).await?;
    if gone.rows_affected() == 0 {
        return Err(ChangeError::NotFound { what: "Server", id: id.to_owned() });
    }
    finish(tx, served, |_| false).await
}

/// Counts the generation beyond the one that is `served` (a database restored from a copy is behind it, and its
/// changes are to be served too), compiles, and commits unless one of the new names is taken (`concerns` tells which collisions
/// are this change's; older ones, for instance after the separator was changed, do not stand in its way).
async fn finish(
    mut tx: Transaction<'static, Sqlite>,
    served: u64,
    concerns: impl Fn(&Collision) -> bool,
) -> Result<Compiled, ChangeError> {
    let served = i64::try_from(served).unwrap_or(0);
    sqlx::query("UPDATE meta SET generation = MAX(generation, $1) + 1 WHERE id = 1")
        .bind(served)
        .execute(&mut *tx)
        .await?;
    let compiled = source::compile_aside(source::load(&mut tx).await?).await?;
    if let Some(collision) = compiled.collisions.iter().find(|collision| concerns(collision)) {
        let Collision { name, upstream, .. } = collision.clone();
        return Err(ChangeError::Collision { name, upstream });
    }
    tx.commit().await?;
    Ok(compiled)
}

async fn insert_gateway(
    connection: &mut SqliteConnection,
    new: &NewGateway,
    offer: &Offer,
    now: &str,
    skipped_tools: &[String],
) -> Result<(), ChangeError> {
    let taken: Vec<i64> =
        sqlx::query_scalar("SELECT interned_index FROM gateways").fetch_all(&mut *connection).await?;
    // AUTOINCREMENT never gives a number twice, so this is a high-water mark that deletions leave where it is.
    let registered_ever: i64 =
        sqlx::query_scalar("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'gateways'")
            .fetch_one(&mut *connection)
            .await?;
    let auth_value = new.credentials.auth_type().map(|_| json(&new.credentials));
    sqlx::query(
        "INSERT INTO gateways (id, name, slug, url, description, transport, capabilities, server_info, instructions, \
         era, interned_index, last_seen, auth_type, auth_value, tags, skipped_tools, created_by, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, 'STREAMABLEHTTP', $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $11, $11)",
    )
    .bind(&new.id)
    .bind(&new.name)
    .bind(&new.slug)
    .bind(&new.url)
    .bind(&new.description)
    .bind(offer.capabilities.get())
    .bind(offer.server_info.get())
    .bind(&offer.instructions)
    .bind(json(&offer.era))
    .bind(counter_cell(registered_ever, &taken))
    .bind(now)
    .bind(new.credentials.auth_type())
    .bind(auth_value)
    .bind(&new.tags)
    .bind(json(skipped_tools))
    .bind(&new.created_by)
    .execute(connection)
    .await?;
    Ok(())
}

/// JSON text of a value of ours; all of them have string keys only, which is all that can fail.
fn json(value: &(impl serde::Serialize + ?Sized)) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The counter cell of a new upstream: one that no upstream ever had while there are such, because a cell keeps its
/// counts; then the lowest one that nobody has; the last cell is shared by everybody who comes too late.
fn counter_cell(registered_ever: i64, taken: &[i64]) -> i64 {
    let last = UPSTREAMS as i64 - 1;
    (registered_ever..last).chain(0..last).find(|cell| !taken.contains(cell)).unwrap_or(last)
}

async fn insert_items(
    connection: &mut SqliteConnection,
    kind: Kind,
    gateway_id: &str,
    items: &[Box<RawValue>],
    now: &str,
) -> Result<(), ChangeError> {
    let (table, column) = table(kind);
    if items.len() > MAX_ITEMS {
        return Err(ChangeError::TooMany(items.len(), table));
    }
    let mut seen = HashSet::new();
    let mut rows = Vec::with_capacity(items.len());
    for item in items {
        match key(kind, item).filter(|key| seen.insert(key.clone())) {
            Some(key) => rows.push((key, item.get())),
            None => {
                tracing::warn!(
                    gateway = gateway_id,
                    table,
                    "an item whose name is missing, unusable or given twice is left out"
                );
            }
        }
    }
    for chunk in rows.chunks(ROWS_PER_INSERT) {
        let sql =
            format!("INSERT INTO {table} (id, gateway_id, {column}, definition, created_at, updated_at) ");
        QueryBuilder::<Sqlite>::new(sql)
            .push_values(chunk, |mut row, (key, definition)| {
                row.push_bind(new_id()).push_bind(gateway_id).push_bind(key).push_bind(*definition);
                row.push_bind(now).push_bind(now);
            })
            .build()
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// What an upstream knows an item by.
fn key(kind: Kind, item: &RawValue) -> Option<String> {
    let member = match kind {
        Kind::Tools | Kind::Prompts => "name",
        Kind::Resources => "uri",
        Kind::Templates => "uriTemplate",
    };
    let usable = |key: &String| !key.is_empty() && key.len() <= MAX_KEY && !key.contains(char::is_control);
    Object::parse(item.get()).ok()?.string(member).filter(usable)
}

/// The names of tools that [`insert_items`] leaves out.
fn tools_left_out(tools: &[Box<RawValue>]) -> Vec<String> {
    let mut seen = HashSet::new();
    let left_out = |tool: &RawValue| match key(Kind::Tools, tool) {
        None => Some("(without a usable name)".to_owned()),
        Some(name) if seen.insert(name.clone()) => None,
        Some(name) => Some(name),
    };
    tools.iter().map(AsRef::as_ref).filter_map(left_out).collect()
}

/// Whether an item was found.
struct Found(bool);

impl Found {
    fn or_missing(
        self,
        field: &'static str,
        collection: &'static str,
        choice: &Choice,
    ) -> Result<(), ChangeError> {
        if self.0 {
            Ok(())
        } else {
            Err(ChangeError::NoSuchItem { field, collection, id: choice.id.clone() })
        }
    }
}

/// Adds an item of the first kind that has its id; an item that is there twice counts once.
async fn associate(
    connection: &mut SqliteConnection,
    kinds: &[Kind],
    server_id: &str,
    choice: &Choice,
) -> Result<Found, ChangeError> {
    for &kind in kinds {
        let ((items, _), (pairs, column, named)) = (table(kind), association(kind));
        let exists = format!("SELECT COUNT(*) FROM {items} WHERE id = $1");
        let count: i64 =
            sqlx::query_scalar(AssertSqlSafe(exists)).bind(&choice.id).fetch_one(&mut *connection).await?;
        if count == 0 {
            continue;
        }
        let insert = if named {
            format!("INSERT OR IGNORE INTO {pairs} (server_id, {column}, exposed_name) VALUES ($1, $2, $3)")
        } else {
            format!("INSERT OR IGNORE INTO {pairs} (server_id, {column}) VALUES ($1, $2)")
        };
        let mut query = sqlx::query(AssertSqlSafe(insert)).bind(server_id).bind(&choice.id);
        if named {
            query = query.bind(&choice.name);
        }
        query.execute(&mut *connection).await?;
        return Ok(Found(true));
    }
    Ok(Found(false))
}

/// A new registry id, in ContextForge's form: 32 hexadecimal digits.
pub fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_cell_is_reused_only_when_none_is_new_and_the_last_one_is_shared() {
        assert_eq!(counter_cell(0, &[]), 0);
        assert_eq!(counter_cell(3, &[0]), 3, "1 and 2 were somebody's");
        assert_eq!(counter_cell(62, &[0]), 62);
        assert_eq!(counter_cell(63, &[0, 2, 62]), 1, "all were used");
        assert_eq!(counter_cell(900, &(0..63).collect::<Vec<_>>()), 63);
    }
}
