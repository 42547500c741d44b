-- The registry: what upstreams offer, as they sent it, and the virtual servers made of it.
-- Rules: a definition is the upstream's JSON, byte for byte; `seq` is the order of lists and of their cursors; every
-- change adds one to meta.generation in its own transaction.

CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    generation BIGINT NOT NULL,
    -- What the served names are made with: GATEWAY_TOOL_NAME_SEPARATOR as of the last start or reload.
    tool_name_separator VARCHAR(16) NOT NULL
);
INSERT INTO meta (id, generation, tool_name_separator) VALUES (1, 1, '__');

CREATE TABLE gateways (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id VARCHAR(36) NOT NULL UNIQUE,
    name VARCHAR(255) NOT NULL UNIQUE,
    slug VARCHAR(255) NOT NULL UNIQUE,
    url TEXT NOT NULL,
    description TEXT,
    transport VARCHAR(20) NOT NULL,
    -- The upstream's capabilities object, serverInfo and instructions.
    capabilities TEXT NOT NULL,
    server_info TEXT NOT NULL,
    instructions TEXT,
    -- JSON: {"era":"modern"} or {"era":"legacy","version":"…"}.
    era TEXT NOT NULL,
    -- Cell of the per-upstream counters in shared memory.
    interned_index INTEGER NOT NULL,
    enabled BOOLEAN NOT NULL DEFAULT TRUE,
    reachable BOOLEAN NOT NULL DEFAULT TRUE,
    last_seen TEXT NOT NULL,
    auth_type VARCHAR(20),
    -- JSON, shape by auth_type; the file is readable by its owner only.
    auth_value TEXT,
    tags TEXT NOT NULL,
    skipped_tools TEXT NOT NULL,
    visibility VARCHAR(20) NOT NULL DEFAULT 'public',
    version INTEGER NOT NULL DEFAULT 1,
    created_by VARCHAR(255) NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
);

CREATE TABLE tools (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id VARCHAR(36) NOT NULL UNIQUE,
    gateway_id VARCHAR(36) NOT NULL REFERENCES gateways (id) ON DELETE CASCADE,
    original_name TEXT NOT NULL,
    definition TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    UNIQUE (gateway_id, original_name)
);

CREATE TABLE resources (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id VARCHAR(36) NOT NULL UNIQUE,
    gateway_id VARCHAR(36) NOT NULL REFERENCES gateways (id) ON DELETE CASCADE,
    uri TEXT NOT NULL,
    definition TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    UNIQUE (gateway_id, uri)
);

CREATE TABLE resource_templates (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id VARCHAR(36) NOT NULL UNIQUE,
    gateway_id VARCHAR(36) NOT NULL REFERENCES gateways (id) ON DELETE CASCADE,
    uri_template TEXT NOT NULL,
    definition TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    UNIQUE (gateway_id, uri_template)
);

CREATE TABLE prompts (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id VARCHAR(36) NOT NULL UNIQUE,
    gateway_id VARCHAR(36) NOT NULL REFERENCES gateways (id) ON DELETE CASCADE,
    original_name TEXT NOT NULL,
    definition TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    UNIQUE (gateway_id, original_name)
);

CREATE TABLE servers (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id VARCHAR(36) NOT NULL UNIQUE,
    name VARCHAR(255) NOT NULL UNIQUE,
    description TEXT,
    icon TEXT,
    enabled BOOLEAN NOT NULL DEFAULT TRUE,
    tags TEXT NOT NULL,
    visibility VARCHAR(20) NOT NULL DEFAULT 'public',
    version INTEGER NOT NULL DEFAULT 1,
    created_by VARCHAR(255) NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
);

-- `exposed_name` is the name that the server's owner chose; none = as at /mcp.
CREATE TABLE server_tool_association (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    server_id VARCHAR(36) NOT NULL REFERENCES servers (id) ON DELETE CASCADE,
    tool_id VARCHAR(36) NOT NULL REFERENCES tools (id) ON DELETE CASCADE,
    exposed_name TEXT,
    UNIQUE (server_id, tool_id)
);
CREATE INDEX server_tool_association_tool ON server_tool_association (tool_id);

CREATE TABLE server_prompt_association (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    server_id VARCHAR(36) NOT NULL REFERENCES servers (id) ON DELETE CASCADE,
    prompt_id VARCHAR(36) NOT NULL REFERENCES prompts (id) ON DELETE CASCADE,
    exposed_name TEXT,
    UNIQUE (server_id, prompt_id)
);
CREATE INDEX server_prompt_association_prompt ON server_prompt_association (prompt_id);

CREATE TABLE server_resource_association (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    server_id VARCHAR(36) NOT NULL REFERENCES servers (id) ON DELETE CASCADE,
    resource_id VARCHAR(36) NOT NULL REFERENCES resources (id) ON DELETE CASCADE,
    UNIQUE (server_id, resource_id)
);
CREATE INDEX server_resource_association_resource ON server_resource_association (resource_id);

CREATE TABLE server_template_association (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    server_id VARCHAR(36) NOT NULL REFERENCES servers (id) ON DELETE CASCADE,
    template_id VARCHAR(36) NOT NULL REFERENCES resource_templates (id) ON DELETE CASCADE,
    UNIQUE (server_id, template_id)
);
CREATE INDEX server_template_association_template ON server_template_association (template_id);
