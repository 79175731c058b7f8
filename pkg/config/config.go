package config

import (
	"log/slog"
	"net/netip"
	"time"
)

// Config is what an operator may set. Make one with [Default] or [Load].
//
// The tags are the source of names and texts: koanf is the key, usage is the
// help of the flag and the comment in the sample file, env:"only" keeps a
// setting out of flags and files, flag:"none" out of flags.
type Config struct {
	// Data is the directory that holds everything the embedded server stores,
	// and the keys that the platform makes for itself.
	Data string `koanf:"data" usage:"directory for everything that is stored"`

	// Roles are the parts of the platform that this process runs. Default all.
	// Processes that share a NATS server divide the roles among them.
	Roles Roles `koanf:"role" usage:"parts of the platform that this process runs"`

	// The addresses below, as host:port, are where a role listens; in a process
	// without the role, they are where it calls the process that has it.

	// HTTP is the gateway's: health, ingest, the Master API, the console.
	HTTP string `koanf:"http" usage:"address of the gateway over HTTP"`
	// GRPC is the gateway's for the Master API over gRPC.
	GRPC string `koanf:"grpc" usage:"address of the gateway over gRPC"`
	// APIHTTP is the Master API's own, over REST.
	APIHTTP string `koanf:"api-http" usage:"address of the Master API over HTTP"`
	// APIGRPC is the Master API's own, over gRPC.
	APIGRPC string `koanf:"api-grpc" usage:"address of the Master API over gRPC"`
	// Broker is the EventBroker's (gRPC).
	Broker string `koanf:"broker" usage:"address of the event broker (gRPC)"`
	// Registry is the schema registry's (gRPC).
	Registry string `koanf:"registry" usage:"address of the schema registry (gRPC)"`
	// Dispatcher is the dispatcher's (gRPC), for pull subscriptions, when it runs alone.
	Dispatcher string `koanf:"dispatcher" usage:"address of the dispatcher (gRPC), when it runs alone"`
	// Metrics serves /metrics, /healthz, /readyz, and profiles if Pprof is set.
	Metrics string `koanf:"metrics" usage:"address of /metrics, /healthz and /readyz"`

	// NATSListen is where the embedded NATS server listens.
	NATSListen string `koanf:"nats-listen" usage:"address of the embedded NATS server"`
	// NATSURL names the servers of an external NATS cluster, separated by
	// commas. Empty, the default, means that this process embeds one.
	NATSURL URL `koanf:"nats-url" usage:"external NATS servers, separated by commas; none: one is embedded"`
	// NATSCreds is a file with the credentials for NATSURL.
	NATSCreds string `koanf:"nats-creds" usage:"credentials file for nats-url"`
	// RedisURL is the Redis that holds the claims of deduplication. Empty, the
	// default, means that they are in JetStream.
	RedisURL URL `koanf:"redis-url" usage:"Redis that holds the claims of deduplication; none: JetStream does"`

	// Durability is what "stored" means with the embedded server. With an
	// external one its own sync_interval decides; see [Config.Fsync].
	Durability Durability `koanf:"durability" usage:"stored means fsync (on the disk) or flush (with the operating system)"`

	// AllowNet are networks that outbound requests may reach although they are
	// private.
	AllowNet []netip.Prefix `koanf:"allow-net" usage:"private networks that outbound requests may reach"`
	// TrustedProxy are the proxies whose X-Forwarded-For is believed.
	TrustedProxy []netip.Prefix `koanf:"trusted-proxy" usage:"proxies whose X-Forwarded-For is believed"`

	// Demo sends three real inputs to a built-in subscriber and shows their way.
	Demo bool `koanf:"demo" usage:"send three events to a built-in subscriber and show their way"`

	// LogLevel is the least level that is logged.
	LogLevel slog.Level `koanf:"log-level" usage:"least level that is logged: debug, info, warn or error"`
	// LogFormat is how log lines are written.
	LogFormat LogFormat `koanf:"log-format" usage:"how log lines are written: text or json"`
	// OTLPEndpoint is where OpenTelemetry spans go, over OTLP/HTTP: the URL of a
	// collector, path included. Empty, the default, exports none.
	OTLPEndpoint string `koanf:"otlp-endpoint" usage:"OTLP/HTTP URL for spans, such as http://127.0.0.1:4318/v1/traces; none: nothing is exported"`
	// Pprof serves Go profiles under /debug/pprof/ of Metrics.
	Pprof bool `koanf:"pprof" usage:"serve Go profiles on the metrics address"`

	// AdminKey is the API key that may do everything. Empty means that the
	// first start makes one and writes it to <Data>/admin.key. It comes from
	// the environment only: files are copied and flags are seen in ps.
	AdminKey Secret `koanf:"admin-key" env:"only" usage:"API key that may do everything"`
	// SealKey seals secrets and signing keys in JetStream; all processes of one
	// platform need the same. Empty means one that the first start makes in
	// Data.
	SealKey Secret `koanf:"seal-key" flag:"none" usage:"key that seals stored secrets; the same in all processes"`

	// SealKeyOld are the keys that SealKey takes the place of, separated by commas.
	// The process with the api role seals anew what they have sealed; after that
	// they can go.
	SealKeyOld Secret `koanf:"seal-key-old" flag:"none" usage:"keys that seal-key takes the place of, separated by commas"`

	// MaxEventBytes is the largest data of one event. Above it a publisher gets
	// 413 before anything is stored.
	MaxEventBytes Bytes `koanf:"max-event-bytes" usage:"largest data of one event"`

	// ShutdownTimeout bounds how long a stopping process waits for attempts in
	// flight. It should be above the longest timeout of a policy (30s).
	ShutdownTimeout time.Duration `koanf:"shutdown-timeout" usage:"how long a stop waits for attempts in flight"`

	TLS         TLS        `koanf:"tls" usage:"certificates of everything that listens, and between processes"`
	Store       Store      `koanf:"store" usage:"events and their data"`
	Deliveries  Deliveries `koanf:"deliveries" usage:"the queue of deliveries"`
	Attempts    Retention  `koanf:"attempts" usage:"the record of attempts"`
	DeadLetters Retention  `koanf:"dead-letters" usage:"deliveries that were given up on"`
	Rejections  Retention  `koanf:"rejections" usage:"publishes that were refused"`
	Dedup       Dedup      `koanf:"dedup" usage:"claims that keep duplicates out"`
	Dispatch    Dispatch   `koanf:"dispatch" usage:"how deliveries are made"`
	Schemas     Schemas    `koanf:"schemas" usage:"schemas that other platforms keep"`

	// origins says where each setting was written that was: "--store-max-age",
	// "POSTHORN_STORE_MAX_AGE", "posthorn.yaml: store.max-age".
	origins map[string]string
}

// TLS names files in PEM. They are read again when they change.
type TLS struct {
	// Cert is this process's certificate, with those between it and its authority.
	// With it everything that listens speaks TLS; without, nothing does.
	Cert string `koanf:"cert" usage:"certificate of this process, in PEM; with it everything that listens speaks TLS"`
	// Key is its private key.
	Key string `koanf:"key" usage:"its private key, in PEM"`
	// CA has the authorities of the other processes and of NATS. Default: the system's.
	CA string `koanf:"ca" usage:"authorities of the other processes, in PEM; none: the system's"`
	// ClientCA has the authorities of clients.
	ClientCA string `koanf:"client-ca" usage:"authorities of clients, in PEM"`
	// ClientAuth says who must show a certificate of ClientCA.
	ClientAuth ClientAuth `koanf:"client-auth" usage:"who must show a certificate of client-ca: internal (the platform's own processes) or all"`
}

// Store is about events and their data.
type Store struct {
	// MaxAge is how long an event is kept once it is delivered. Default 336h.
	MaxAge time.Duration `koanf:"max-age" usage:"how long an event is kept"`
	// MaxBytes is the room for events, and as much for their large payloads and for
	// their IDs. 0, the default, is a share of the disk that is free at the first
	// start: 30 % for events, 15 % for payloads and 7.5 % for IDs.
	MaxBytes Bytes `koanf:"max-bytes" usage:"room for events, and as much for large payloads and for IDs; 0: 30, 15 and 7.5 % of the disk that is free at the first start"`
	// Replicas of every stream and bucket, on as many servers. Default 1.
	Replicas int `koanf:"replicas" usage:"copies of everything stored, on as many NATS servers"`
	// PayloadThreshold is the size of data above which it goes to the object
	// store. Default 256KiB.
	PayloadThreshold Bytes `koanf:"payload-threshold" usage:"size above which data goes to the object store"`
}

// Deliveries is about the queue of deliveries. It has no age: what is not
// delivered is not forgotten.
type Deliveries struct {
	// MaxBytes is the room for the queue. 0, the default, is 7.5 % of the disk that
	// is free at the first start.
	MaxBytes Bytes `koanf:"max-bytes" usage:"room for the queue; 0: 7.5 % of the disk that is free at the first start"`
}

// Retention is how long, and how much of, a record is kept.
type Retention struct {
	MaxAge time.Duration `koanf:"max-age" usage:"how long they are kept"`
	// MaxBytes is the room for the record. 0, the default, is a share of the disk
	// that is free at the first start: 9 % for attempts, 2.25 % for dead letters and
	// 0.75 % for rejections.
	MaxBytes Bytes `koanf:"max-bytes" usage:"room for them; 0: of the disk that is free at the first start 9 % for attempts, 2.25 % for dead letters, 0.75 % for rejections"`
}

// Dedup is about the claims that keep duplicates out.
type Dedup struct {
	// Window is how long a publisher's idempotency key is known. Default 24h.
	Window time.Duration `koanf:"window" usage:"how long a publisher's idempotency key is known"`
	// DoneTTL is how long the claim of a finished delivery is kept. Default 15m.
	DoneTTL time.Duration `koanf:"done-ttl" usage:"how long the claim of a finished delivery is kept"`
	// OnRedisDown says what deliveries do while Redis does not answer.
	OnRedisDown OnRedisDown `koanf:"on-redis-down" usage:"while Redis does not answer, deliveries wait, or claim in JetStream: wait or kv"`
}

// Dispatch is about making deliveries.
type Dispatch struct {
	// Concurrency is the number of attempts in flight at once in one process.
	// Default 128.
	Concurrency int `koanf:"concurrency" usage:"attempts in flight at once"`
	// ProbeInterval is the longest wait between two tries at an endpoint that fails.
	ProbeInterval time.Duration `koanf:"probe-interval" usage:"longest wait between two tries at an endpoint that fails"`
}

// Schemas is about schemas that other platforms keep (C12).
type Schemas struct {
	// Foreign are those platforms, each as <domain>=<URL>: types whose URIs begin
	// with the domain are validated by the schemas that are fetched from there.
	Foreign []string `koanf:"foreign" usage:"platforms whose schemas are fetched, each as <domain>=<URL>"`
	// ForeignTokens are API keys for them, as <domain>=<key>, separated by commas.
	ForeignTokens Secret `koanf:"foreign-tokens" flag:"none" usage:"API keys for them, each as <domain>=<key>, separated by commas"`
	// MaxEntries and MaxBytes bound what is kept of them in memory.
	MaxEntries int   `koanf:"max-entries" usage:"how many foreign schemas are kept"`
	MaxBytes   Bytes `koanf:"max-bytes" usage:"how large the foreign schemas that are kept are together"`
}

// Default returns what holds where nobody says otherwise.
func Default() *Config {
	const day = 24 * time.Hour
	return &Config{
		Data:            "./posthorn-data",
		Roles:           AllRoles(),
		HTTP:            "127.0.0.1:9600",
		GRPC:            "127.0.0.1:9601",
		APIHTTP:         "127.0.0.1:9610",
		APIGRPC:         "127.0.0.1:9611",
		Broker:          "127.0.0.1:9620",
		Registry:        "127.0.0.1:9630",
		Dispatcher:      "127.0.0.1:9640",
		Metrics:         "127.0.0.1:9690",
		NATSListen:      "127.0.0.1:4222",
		Durability:      Fsync,
		LogLevel:        slog.LevelInfo,
		LogFormat:       Text,
		MaxEventBytes:   8 * MiB,
		ShutdownTimeout: 35 * time.Second,
		TLS:             TLS{ClientAuth: Internal},
		Store:           Store{MaxAge: 14 * day, Replicas: 1, PayloadThreshold: 256 * KiB},
		Attempts:        Retention{MaxAge: 31 * day},
		DeadLetters:     Retention{MaxAge: 14 * day},
		Rejections:      Retention{MaxAge: 31 * day},
		Dedup:           Dedup{Window: day, DoneTTL: 15 * time.Minute, OnRedisDown: Wait},
		Dispatch:        Dispatch{Concurrency: 128, ProbeInterval: time.Minute},
		Schemas:         Schemas{MaxEntries: 1000, MaxBytes: 64 * MiB},
	}
}

// Embedded reports whether this process runs its own NATS server.
func (c *Config) Embedded() bool { return c.NATSURL == "" }

// Fsync reports whether an answer waits until the disk has the event. It is
// false with an external server, whose own settings decide.
func (c *Config) Fsync() bool { return c.Embedded() && c.Durability == Fsync }
