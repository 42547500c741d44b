//! Rows as the admin API shows them.

use sqlx::{AssertSqlSafe, FromRow, SqliteConnection};

use super::RegistryError;
use super::credentials::Credentials;
use crate::catalog::Kind;

/// One row of `gateways`, with counts. Not `Debug`: it holds credentials.
#[derive(Clone, FromRow)]
#[expect(missing_docs, reason = "the columns of the table of the same name")]
pub struct GatewayRecord {
    pub seq: i64,
    pub id: String,
    pub name: String,
    pub slug: String,
    pub url: String,
    pub description: Option<String>,
    pub transport: String,
    pub capabilities: String,
    pub instructions: Option<String>,
    pub era: String,
    pub interned_index: i64,
    pub enabled: bool,
    pub reachable: bool,
    pub last_seen: String,
    pub auth_value: Option<String>,
    pub tags: String,
    pub skipped_tools: String,
    pub visibility: String,
    pub version: i64,
    pub created_by: String,
    pub created_at: String,
    pub updated_at: String,
    pub tool_count: i64,
    pub resource_count: i64,
    pub prompt_count: i64,
}

impl GatewayRecord {
    /// The stored credentials.
    pub fn credentials(&self) -> Result<Credentials, RegistryError> {
        match &self.auth_value {
            None => Ok(Credentials::None),
            Some(text) => {
                serde_json::from_str(text).map_err(|_| RegistryError::Damaged("gateways.auth_value"))
            }
        }
    }
}

/// One row of `tools`, `resources`, `resource_templates` or `prompts`, with its upstream.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns of the tables")]
pub struct ItemRecord {
    pub seq: i64,
    pub id: String,
    pub gateway_id: String,
    pub gateway_slug: String,
    pub gateway_url: String,
    pub created_by: String,
    pub item_key: String,
    pub definition: String,
    pub created_at: String,
    pub updated_at: String,
}

/// One row of `servers`.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns of the table of the same name")]
pub struct ServerRecord {
    pub seq: i64,
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    pub icon: Option<String>,
    pub enabled: bool,
    pub tags: String,
    pub visibility: String,
    pub version: i64,
    pub created_by: String,
    pub created_at: String,
    pub updated_at: String,
}

/// One item of a virtual server.
#[derive(Clone, Debug, FromRow)]
#[expect(missing_docs, reason = "the columns of the tables")]
pub struct AssociationRecord {
    pub item_id: String,
    pub item_key: String,
    pub gateway_slug: String,
    pub exposed_name: Option<String>,
}

/// Part of a list: rows after `after`, at most `limit`.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// `seq` of the last row of the page before; 0 for the first page.
    pub after: i64,
    /// Most rows.
    pub limit: i64,
}

const GATEWAY: &str = "SELECT g.*, \
     (SELECT COUNT(*) FROM tools t WHERE t.gateway_id = g.id) AS tool_count, \
     (SELECT COUNT(*) FROM resources r WHERE r.gateway_id = g.id) AS resource_count, \
     (SELECT COUNT(*) FROM prompts p WHERE p.gateway_id = g.id) AS prompt_count FROM gateways g";

/// A page of upstreams.
pub async fn gateways(
    connection: &mut SqliteConnection,
    page: Page,
) -> Result<Vec<GatewayRecord>, RegistryError> {
    let sql = AssertSqlSafe(format!("{GATEWAY} WHERE g.seq > $1 ORDER BY g.seq LIMIT $2"));
    Ok(sqlx::query_as(sql).bind(page.after).bind(page.limit).fetch_all(connection).await?)
}

/// One upstream.
pub async fn gateway(
    connection: &mut SqliteConnection,
    id: &str,
) -> Result<Option<GatewayRecord>, RegistryError> {
    let sql = AssertSqlSafe(format!("{GATEWAY} WHERE g.id = $1"));
    Ok(sqlx::query_as(sql).bind(id).fetch_optional(connection).await?)
}

/// Table of a kind of items, and the column that its upstream knows them by.
pub(super) fn table(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Tools => ("tools", "original_name"),
        Kind::Resources => ("resources", "uri"),
        Kind::Templates => ("resource_templates", "uri_template"),
        Kind::Prompts => ("prompts", "original_name"),
    }
}

/// Association table of a kind, its column, and whether the owner of a server may name its items.
pub(super) fn association(kind: Kind) -> (&'static str, &'static str, bool) {
    match kind {
        Kind::Tools => ("server_tool_association", "tool_id", true),
        Kind::Resources => ("server_resource_association", "resource_id", false),
        Kind::Templates => ("server_template_association", "template_id", false),
        Kind::Prompts => ("server_prompt_association", "prompt_id", true),
    }
}

fn select_items(kind: Kind) -> String {
    // Table and column names are constants of `table`; values are bound.
    let (table, key) = table(kind);
    format!(
        "SELECT i.seq, i.id, i.gateway_id, g.slug AS gateway_slug, g.url AS gateway_url, g.created_by, \
         i.{key} AS item_key, i.definition, i.created_at, i.updated_at \
         FROM {table} i JOIN gateways g ON g.id = i.gateway_id"
    )
}

/// A page of items, of one upstream or of all.
pub async fn items(
    connection: &mut SqliteConnection,
    kind: Kind,
    gateway_id: Option<&str>,
    page: Page,
) -> Result<Vec<ItemRecord>, RegistryError> {
    let select = select_items(kind);
    let sql =
        format!("{select} WHERE i.seq > $1 AND ($2 IS NULL OR i.gateway_id = $2) ORDER BY i.seq LIMIT $3");
    let query = sqlx::query_as(AssertSqlSafe(sql)).bind(page.after).bind(gateway_id).bind(page.limit);
    Ok(query.fetch_all(connection).await?)
}

/// One item.
pub async fn item(
    connection: &mut SqliteConnection,
    kind: Kind,
    id: &str,
) -> Result<Option<ItemRecord>, RegistryError> {
    let sql = AssertSqlSafe(format!("{} WHERE i.id = $1", select_items(kind)));
    Ok(sqlx::query_as(sql).bind(id).fetch_optional(connection).await?)
}

/// A page of virtual servers.
pub async fn servers(
    connection: &mut SqliteConnection,
    page: Page,
) -> Result<Vec<ServerRecord>, RegistryError> {
    let sql = "SELECT * FROM servers WHERE seq > $1 ORDER BY seq LIMIT $2";
    Ok(sqlx::query_as(sql).bind(page.after).bind(page.limit).fetch_all(connection).await?)
}

/// One virtual server.
pub async fn server(
    connection: &mut SqliteConnection,
    id: &str,
) -> Result<Option<ServerRecord>, RegistryError> {
    Ok(sqlx::query_as("SELECT * FROM servers WHERE id = $1").bind(id).fetch_optional(connection).await?)
}

/// The items of a kind that a virtual server offers, in its order.
pub async fn associations(
    connection: &mut SqliteConnection,
    kind: Kind,
    server_id: &str,
) -> Result<Vec<AssociationRecord>, RegistryError> {
    let ((items, key), (pairs, column, named)) = (table(kind), association(kind));
    let name = if named { "a.exposed_name" } else { "NULL" };
    let sql = format!(
        "SELECT i.id AS item_id, i.{key} AS item_key, g.slug AS gateway_slug, {name} AS exposed_name \
         FROM {pairs} a JOIN {items} i ON i.id = a.{column} JOIN gateways g ON g.id = i.gateway_id \
         WHERE a.server_id = $1 ORDER BY a.seq"
    );
    Ok(sqlx::query_as(AssertSqlSafe(sql)).bind(server_id).fetch_all(connection).await?)
}
