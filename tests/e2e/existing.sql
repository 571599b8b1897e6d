-- The tables of an existing installation, as its migrations leave them.
CREATE TABLE migration_version (id text PRIMARY KEY, name text, applied_at timestamptz DEFAULT now());
INSERT INTO migration_version (id) VALUES ('20260528113134_create_initial_schema'), ('20260805140000_add_policies_gateway_slug_idx');
CREATE TABLE gateways (id uuid PRIMARY KEY, slug text NOT NULL UNIQUE, status text NOT NULL DEFAULT 'active',
  domain text NOT NULL DEFAULT '', metadata jsonb, telemetry jsonb, client_tls jsonb, session_config jsonb,
  entitlements jsonb NOT NULL DEFAULT '{"tier":"free"}', created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL);
CREATE TABLE registries (id uuid PRIMARY KEY, gateway_id uuid NOT NULL REFERENCES gateways, name text NOT NULL,
  type text NOT NULL DEFAULT 'LLM', enabled boolean NOT NULL DEFAULT true, provider text, provider_options jsonb,
  auth text, description text, health_checks jsonb, mcp_target jsonb, created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL, UNIQUE (gateway_id, name));
CREATE TABLE consumers (id uuid PRIMARY KEY, gateway_id uuid NOT NULL REFERENCES gateways, name text NOT NULL,
  type text NOT NULL DEFAULT 'LLM', slug text NOT NULL UNIQUE, routing_mode text NOT NULL DEFAULT 'inline',
  lb_config jsonb, fallback jsonb, model_policies jsonb, toolkit jsonb, fail_mode text,
  headers jsonb NOT NULL DEFAULT '{}', active boolean NOT NULL DEFAULT true, created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL, UNIQUE (gateway_id, name));
CREATE TABLE auths (id uuid PRIMARY KEY, gateway_id uuid NOT NULL REFERENCES gateways, name text NOT NULL,
  type text NOT NULL, enabled boolean NOT NULL DEFAULT true, config jsonb NOT NULL DEFAULT '{}', key_hash text,
  key_prefix text, key_suffix text, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL);
CREATE TABLE policies (id uuid PRIMARY KEY, gateway_id uuid NOT NULL REFERENCES gateways, name text NOT NULL,
  description text NOT NULL DEFAULT '', slug text NOT NULL, enabled boolean NOT NULL DEFAULT true,
  global boolean NOT NULL DEFAULT false, priority int NOT NULL DEFAULT 0, parallel boolean NOT NULL DEFAULT false,
  settings jsonb NOT NULL DEFAULT '{}', stages jsonb NOT NULL DEFAULT '[]', mode text NOT NULL DEFAULT 'enforce',
  created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, UNIQUE (gateway_id, name));
CREATE TABLE roles (id uuid PRIMARY KEY, gateway_id uuid NOT NULL REFERENCES gateways, name text NOT NULL,
  model_policies jsonb, mcp_policies jsonb, oidc_mapping jsonb, created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL, UNIQUE (gateway_id, name));
CREATE SEQUENCE consumer_registry_position_seq;
CREATE TABLE consumer_registry (consumer_id uuid NOT NULL REFERENCES consumers ON DELETE CASCADE,
  registry_id uuid NOT NULL REFERENCES registries ON DELETE CASCADE, weight int NOT NULL DEFAULT 1,
  position bigint DEFAULT nextval('consumer_registry_position_seq'), PRIMARY KEY (consumer_id, registry_id));
CREATE TABLE consumer_auth (consumer_id uuid NOT NULL REFERENCES consumers ON DELETE CASCADE,
  auth_id uuid NOT NULL REFERENCES auths, PRIMARY KEY (consumer_id, auth_id));
CREATE TABLE consumer_policy (consumer_id uuid NOT NULL REFERENCES consumers ON DELETE CASCADE,
  policy_id uuid NOT NULL REFERENCES policies ON DELETE CASCADE, PRIMARY KEY (consumer_id, policy_id));
CREATE TABLE consumer_role (consumer_id uuid NOT NULL REFERENCES consumers ON DELETE CASCADE,
  role_id uuid NOT NULL REFERENCES roles ON DELETE CASCADE, PRIMARY KEY (consumer_id, role_id));
CREATE TABLE role_registry (role_id uuid NOT NULL REFERENCES roles ON DELETE CASCADE,
  registry_id uuid NOT NULL REFERENCES registries, PRIMARY KEY (role_id, registry_id));
CREATE TABLE vault_credentials (id uuid PRIMARY KEY, gateway_id uuid NOT NULL REFERENCES gateways ON DELETE CASCADE,
  principal_sub text NOT NULL, provider text NOT NULL, account_ref text NOT NULL DEFAULT '', access_token text NOT NULL,
  refresh_token text NOT NULL DEFAULT '', scopes jsonb, expires_at timestamptz, created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL, UNIQUE (gateway_id, principal_sub, provider));
