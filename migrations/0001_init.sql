-- The console's memory. Expand only: a later migration adds, it never changes the meaning of what is here.
-- Times are milliseconds since 1970 (UTC). Hashes are SHA-256. The arbiter's record is not here: it has a
-- file of its own (arbiter.db), which is in no backup.

-- Numbers that only grow. `generation`: of configurations, over all clusters.
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
INSERT INTO counter (name, value) VALUES ('generation', 0);

CREATE TABLE user (
  name TEXT PRIMARY KEY,
  password TEXT NOT NULL,               -- argon2id, PHC string
  role TEXT NOT NULL,                   -- monitor | control | admin
  is_disabled INTEGER NOT NULL DEFAULT 0,
  created_ms INTEGER NOT NULL,
  signed_in_ms INTEGER
) STRICT;

CREATE TABLE session (
  id_hash BLOB PRIMARY KEY,
  user TEXT NOT NULL REFERENCES user(name) ON DELETE CASCADE,
  address TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  used_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE api_token (
  id TEXT PRIMARY KEY,
  secret_hash BLOB NOT NULL UNIQUE,
  name TEXT NOT NULL,
  role TEXT NOT NULL,
  by TEXT NOT NULL,
  created_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE cluster (
  name TEXT PRIMARY KEY,
  xml TEXT NOT NULL,
  def TEXT NOT NULL,                    -- ClusterDef, JSON
  generation INTEGER NOT NULL,          -- raised also when a module comes or goes
  heartbeat_key TEXT NOT NULL,          -- 32 bytes, hexadecimal
  created_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE join_token (
  secret_hash BLOB PRIMARY KEY,
  cluster TEXT NOT NULL REFERENCES cluster(name) ON DELETE CASCADE,
  by TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  expires_ms INTEGER NOT NULL,
  used_ms INTEGER,
  used_by TEXT
) STRICT;

CREATE TABLE node (
  id INTEGER PRIMARY KEY AUTOINCREMENT, -- a new enrolment is a new id: its event counter begins anew
  cluster TEXT NOT NULL REFERENCES cluster(name) ON DELETE CASCADE,
  name TEXT NOT NULL,
  fingerprint TEXT NOT NULL,            -- SHA-256 of the certificate, hexadecimal
  address TEXT NOT NULL,                -- enrolled from
  enrolled_ms INTEGER NOT NULL,
  approved_ms INTEGER,
  approved_by TEXT,
  agent_version TEXT,
  os TEXT,
  seen_ms INTEGER,
  UNIQUE (cluster, name)
) STRICT;

CREATE TABLE module (
  cluster TEXT NOT NULL REFERENCES cluster(name) ON DELETE CASCADE,
  name TEXT NOT NULL,
  module_id INTEGER NOT NULL,           -- fixes the ports
  nodes TEXT NOT NULL,                  -- JSON array, configured order
  applied_version INTEGER,
  generation INTEGER NOT NULL DEFAULT 0, -- of the last apply; 0 = never applied
  created_ms INTEGER NOT NULL,
  PRIMARY KEY (cluster, name),
  UNIQUE (cluster, module_id)
) STRICT;

CREATE TABLE module_version (
  cluster TEXT NOT NULL,
  module TEXT NOT NULL,
  version INTEGER NOT NULL,
  userconfig TEXT NOT NULL,
  scripts TEXT NOT NULL,                -- JSON object, file name -> text
  def TEXT NOT NULL,                    -- ModuleDef, JSON
  by TEXT NOT NULL,
  reason TEXT,
  created_ms INTEGER NOT NULL,
  PRIMARY KEY (cluster, module, version),
  FOREIGN KEY (cluster, module) REFERENCES module(cluster, name) ON DELETE CASCADE
) STRICT;

-- What each node last answered to a deployment.
CREATE TABLE deploy_result (
  cluster TEXT NOT NULL,
  module TEXT NOT NULL,
  node TEXT NOT NULL,
  generation INTEGER NOT NULL,
  problems TEXT NOT NULL,               -- JSON array, empty = in force
  at_ms INTEGER NOT NULL,
  PRIMARY KEY (cluster, module, node),
  FOREIGN KEY (cluster, module) REFERENCES module(cluster, name) ON DELETE CASCADE
) STRICT;

-- Last known state of each node, so that a restarted console can show it with its age.
CREATE TABLE last_snapshot (
  cluster TEXT NOT NULL,
  module TEXT NOT NULL,
  node TEXT NOT NULL,
  snapshot TEXT NOT NULL,
  received_ms INTEGER NOT NULL,
  PRIMARY KEY (cluster, module, node),
  FOREIGN KEY (cluster, module) REFERENCES module(cluster, name) ON DELETE CASCADE
) STRICT;

CREATE TABLE operation (
  id TEXT PRIMARY KEY,                  -- UUID v7: sorts by time
  cluster TEXT NOT NULL,
  module TEXT NOT NULL,
  verb TEXT NOT NULL,
  state TEXT NOT NULL,                  -- queued | running | succeeded | failed | unknown
  by TEXT NOT NULL,
  body TEXT NOT NULL,                   -- Operation, JSON
  created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX operation_by_module ON operation (cluster, module, id);

CREATE TABLE idempotency (
  who TEXT NOT NULL,
  key TEXT NOT NULL,
  request_hash BLOB NOT NULL,
  operation TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  PRIMARY KEY (who, key)
) STRICT;

CREATE TABLE event (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  enrolment INTEGER NOT NULL,           -- node.id at the time
  seq INTEGER NOT NULL,                 -- the node's own counter
  cluster TEXT NOT NULL,
  module TEXT NOT NULL,
  node TEXT NOT NULL,
  level TEXT NOT NULL,
  at_ms INTEGER NOT NULL,               -- the node's clock
  received_ms INTEGER NOT NULL,
  body TEXT NOT NULL,                   -- EventRecord, JSON
  UNIQUE (enrolment, seq)
) STRICT;
CREATE INDEX event_by_module ON event (cluster, module, id);

CREATE TABLE audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at_ms INTEGER NOT NULL,
  who TEXT NOT NULL,
  address TEXT NOT NULL,
  via TEXT NOT NULL,                    -- ui | api | agent | console
  action TEXT NOT NULL,
  object TEXT NOT NULL,
  detail TEXT NOT NULL,                 -- JSON
  reason TEXT,
  result TEXT NOT NULL
) STRICT;
