package config_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/posthornhq/posthorn/pkg/config"
)

var equal = cmp.Options{cmpopts.IgnoreUnexported(config.Config{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty()}

// load is config.Load with what a user would write: a command line, an
// environment, and the text of a file.
func load(t *testing.T, args, environ []string, yaml string) (*config.Config, error) {
	t.Helper()
	flags := config.Flags()
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	file := ""
	if yaml != "" {
		file = filepath.Join(t.TempDir(), "posthorn.yaml")
		if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return config.Load(flags, environ, file)
}

func TestNothingSaidIsTheDefault(t *testing.T) {
	t.Parallel()
	got, err := config.Load(nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(config.Default(), got, equal); diff != "" {
		t.Errorf("without flags, environment and file (-default +loaded):\n%s", diff)
	}
}

// The weaker a layer, the more often it is overruled.
func TestFlagsOverEnvironmentOverFileOverDefaults(t *testing.T) {
	t.Parallel()
	const file = "store: {max-age: 1h}\n"
	env := []string{"POSTHORN_STORE_MAX_AGE=2h", "HOME=/nowhere"}
	tests := []struct {
		name    string
		args    []string
		environ []string
		yaml    string
		want    time.Duration
	}{
		{"default", nil, nil, "", 336 * time.Hour},
		{"file over default", nil, nil, file, time.Hour},
		{"environment over file", nil, env, file, 2 * time.Hour},
		{"flag over environment", []string{"--store-max-age=3h"}, env, file, 3 * time.Hour},
		{"flag over environment although it says the default", []string{"--store-max-age=14d"}, env, file, 336 * time.Hour},
		{"an empty variable says nothing", nil, []string{"POSTHORN_STORE_MAX_AGE="}, file, time.Hour},
		{"a key without value says nothing", nil, nil, "store:\n  max-age:\n", 336 * time.Hour},
		{"a section without keys says nothing", nil, nil, "store:\n", 336 * time.Hour},
		{"a key with its section before a dot", nil, nil, "store.max-age: 5h\n", 5 * time.Hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg, err := load(t, tt.args, tt.environ, tt.yaml)
			if err != nil {
				t.Fatal(err)
			}
			if cfg.Store.MaxAge != tt.want {
				t.Errorf("store.max-age is %s, want %s", cfg.Store.MaxAge, tt.want)
			}
		})
	}
}

func TestEveryKindOfValueIsRead(t *testing.T) {
	t.Parallel()
	want := config.Default()
	want.Roles = config.Roles{config.Gateway, config.Broker}
	want.AllowNet = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	want.Demo = true
	want.LogLevel = slog.LevelDebug
	want.LogFormat = config.JSON
	want.MaxEventBytes = 3 * config.MiB / 2
	want.Dispatch.Concurrency = 7
	want.Dedup.DoneTTL = 36 * time.Hour
	want.RedisURL = "redis://redis:6379"

	tests := []struct {
		name    string
		args    []string
		environ []string
		yaml    string
	}{
		{
			name: "flags",
			args: []string{
				"--role", "gateway", "--role=broker", "--allow-net=10.0.0.0/8,::1", "--demo", "--log-level=debug", "--log-format=json",
				"--max-event-bytes=1.5MiB", "--dispatch-concurrency=7", "--dedup-done-ttl=1d12h", "--redis-url=redis://redis:6379",
			},
		},
		{
			name: "environment",
			environ: []string{
				"POSTHORN_ROLE=gateway, broker", "POSTHORN_ALLOW_NET=10.1.2.3/8,::1", "POSTHORN_DEMO=true", "POSTHORN_LOG_LEVEL=DEBUG",
				"POSTHORN_LOG_FORMAT=json", "POSTHORN_MAX_EVENT_BYTES=1572864", "POSTHORN_DISPATCH_CONCURRENCY=7",
				"POSTHORN_DEDUP_DONE_TTL=36h", "POSTHORN_REDIS_URL=redis://redis:6379",
			},
		},
		{
			name: "file",
			yaml: `
role: [gateway, broker]
allow-net:
  - 10.0.0.0/8
  - "::1"
demo: true
log-level: debug
log-format: json
max-event-bytes: 1572864
dispatch: {concurrency: 7}
dedup:
  done-ttl: 36h
redis-url: redis://redis:6379
`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := load(t, tt.args, tt.environ, tt.yaml)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, equal); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatIsWrongIsNamed(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		args    []string
		environ []string
		yaml    string
		want    []string // each is part of the error
	}{
		{"unknown key", nil, nil, "stroe: {max-age: 1h}\n", []string{`posthorn.yaml: there is no setting "stroe"`}},
		{"unknown key in a section", nil, nil, "store: {max_age: 1h}\n", []string{`no setting "store.max_age"`, "did you mean store.max-age?"}},
		{"all unknown keys", nil, nil, "httpp: x\nrols: y\n", []string{`"httpp"`, "did you mean http?", `"rols"`, "did you mean role?"}},
		{"nothing is near", nil, nil, "kubernetes: x\n", []string{`posthorn.yaml: there is no setting "kubernetes"`}},
		{"unknown variable", nil, []string{"POSTHORN_ROLES=api"}, "", []string{"POSTHORN_ROLES: there is no such setting", "did you mean POSTHORN_ROLE?"}},
		{"unknown flag", []string{"--rol=api"}, nil, "", []string{"--rol"}},
		{"a value where settings belong", nil, nil, "store: 5\n", []string{"store holds settings", "store.max-age"}},
		{"settings where a value belongs", nil, nil, "http: {port: 1}\n", []string{"http is a value"}},
		{"a key written twice", nil, nil, "http: a:1\nhttp: b:2\n", []string{"http", "already"}},
		{"no YAML", nil, nil, "http: [\n", []string{"posthorn.yaml"}},
		{"duration without unit", nil, nil, "store: {max-age: 14}\n", []string{"posthorn.yaml: store.max-age", `"14" is not a duration`}},
		{"duration in a variable", nil, []string{"POSTHORN_DEDUP_WINDOW=soon"}, "", []string{`POSTHORN_DEDUP_WINDOW: "soon" is not a duration`}},
		{"size in a flag", []string{"--max-event-bytes=8XB"}, nil, "", []string{"--max-event-bytes", `"8XB" is not a size`}},
		{"negative size", []string{"--store-max-bytes=-1"}, nil, "", []string{"--store-max-bytes", "out of range"}},
		{"size that overflows", nil, nil, "max-event-bytes: 9999999TiB\n", []string{"max-event-bytes", "out of range"}},
		{"unknown role", []string{"--role=gatewy"}, nil, "", []string{`"gatewy" is none of gateway, broker, registry, api, dispatcher`}},
		{"role named twice", []string{"--role=api,api"}, nil, "", []string{"--role: api is named twice"}},
		{"no role", []string{"--role="}, nil, "", []string{"at least one of gateway"}},
		{"unknown durability", nil, []string{"POSTHORN_DURABILITY=always"}, "", []string{`"always" is none of fsync, flush`}},
		{"no network", nil, nil, "allow-net: [10.0.0.0/33]\n", []string{`"10.0.0.0/33" is not a network`}},
		{"no address", []string{"--http=9600"}, nil, "", []string{`--http: "9600" is not an address`}},
		{"port out of range", []string{"--http=:96000"}, nil, "", []string{`--http: ":96000" is not an address`}},
		{"two on one address", []string{"--http=:9", "--grpc=:9"}, nil, "", []string{"--grpc: :9 is already the address of http"}},
		{"admin key in the file", nil, nil, "admin-key: k\n", []string{"admin-key comes from the environment only", "POSTHORN_ADMIN_KEY"}},
		{"nats-url beside nats-listen", []string{"--nats-url=nats://n", "--nats-listen=:4222"}, nil, "", []string{"--nats-listen", "nats-url"}},
		{"fsync for servers that are not ours", []string{"--nats-url=nats://n"}, nil, "durability: fsync\n", []string{"durability", "sync_interval"}},
		{"replicas of one server", nil, nil, "store: {replicas: 3}\n", []string{"store.replicas", "3 replicas", "nats-url"}},
		{"too many replicas", []string{"--nats-url=nats://n", "--store-replicas=7"}, nil, "", []string{"--store-replicas: 7 is not between 1 and 5"}},
		{"credentials for nobody", []string{"--nats-creds=f"}, nil, "", []string{"--nats-creds"}},
		{"no NATS URL", []string{"--nats-url=http://n"}, nil, "", []string{"scheme http"}},
		{"no Redis URL", []string{"--redis-url=localhost:6379"}, nil, "", []string{"--redis-url"}},
		{"fallback from no Redis", []string{"--dedup-on-redis-down=kv"}, nil, "", []string{"--dedup-on-redis-down", "redis-url"}},
		{"a role elsewhere at no address", []string{"--role=gateway", "--broker=0.0.0.0:9620"}, nil, "", []string{"--broker: 0.0.0.0:9620", "not called"}},
		{"a certificate without a key", []string{"--tls-cert=c"}, nil, "", []string{"--tls-cert", "tls.key"}},
		{"a key without a certificate", nil, []string{"POSTHORN_TLS_KEY=k"}, "", []string{"POSTHORN_TLS_KEY", "tls.cert"}},
		{"certificates of clients without TLS", nil, nil, "tls: {client-ca: f}\n", []string{"tls.client-ca", "tls.cert"}},
		{"certificates that nobody could show", nil, nil, "tls: {cert: c, key: k, client-auth: all}\n", []string{"tls.client-auth", "tls.client-ca"}},
		{"some clients", nil, nil, "tls: {client-auth: some}\n", []string{`"some" is none of internal, all`}},
		{"a demo over TLS", []string{"--demo", "--tls-cert=c", "--tls-key=k"}, nil, "", []string{"--demo", "TLS"}},
		{"a foreign platform without a URL", nil, nil, "schemas: {foreign: [partner.example]}\n", []string{"schemas.foreign", "<domain>=<URL>"}},
		{"room for no foreign schema", []string{"--schemas-max-entries=0"}, nil, "", []string{"--schemas-max-entries: 0"}},
		{"spans to nowhere", []string{"--otlp-endpoint=localhost:4318"}, nil, "", []string{"--otlp-endpoint", "4318/v1/traces"}},
		{"data that no message holds", []string{"--store-payload-threshold=1MiB"}, nil, "", []string{"--store-payload-threshold: 1MiB"}},
		{"no attempts", nil, nil, "dispatch: {concurrency: 0}\n", []string{"dispatch.concurrency: 0"}},
		{"no directory", []string{"--data="}, nil, "", []string{"--data"}},
		{"age of nothing", []string{"--store-max-age=0s"}, nil, "", []string{"--store-max-age: 0s is under a second"}},
		{
			"all problems at once", []string{"--store-replicas=0", "--dispatch-concurrency=0"}, nil, "shutdown-timeout: 1ms\n",
			[]string{"--store-replicas", "--dispatch-concurrency", "posthorn.yaml: shutdown-timeout"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, tt.args, tt.environ, tt.yaml)
			if err == nil {
				t.Fatalf("no error, want one with %q", tt.want)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error does not say %q:\n%v", want, err)
				}
			}
			if tt.name == "nothing is near" && strings.Contains(err.Error(), "did you mean") {
				t.Errorf("a suggestion from nowhere: %v", err)
			}
		})
	}
}

func TestWhatIsNotWrong(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		args    []string
		environ []string
	}{
		{"some roles with the embedded server, for others to join", []string{"--role=gateway,broker"}, nil},
		{"replicas on a cluster", []string{"--nats-url=nats://a:4222,nats://b:4222", "--store-replicas=3"}, nil},
		{"flush with a cluster", []string{"--nats-url=nats://a", "--durability=flush"}, nil},
		{"any free port, several times", []string{"--http=127.0.0.1:0", "--grpc=127.0.0.1:0", "--nats-listen=127.0.0.1:0"}, nil},
		{"a role elsewhere", []string{"--role=gateway", "--broker=broker:9620"}, nil},
		{"what only a client reads", nil, []string{"POSTHORN_CONFIG=x", "POSTHORN_SERVER=http://x", "POSTHORN_API_KEY=k"}},
		{"what Kubernetes adds for services", nil, []string{
			"POSTHORN_SERVICE_HOST=10.0.0.1", "POSTHORN_SERVICE_PORT=9600", "POSTHORN_SERVICE_PORT_HTTP=9600", "POSTHORN_PORT=tcp://10.0.0.1:9600",
			"POSTHORN_PORT_9600_TCP=tcp://10.0.0.1:9600", "POSTHORN_BROKER_PORT_9620_TCP_ADDR=10.0.0.1", "POSTHORN_BROKER_SERVICE_HOST=10.0.0.2",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, err := load(t, tt.args, tt.environ, ""); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAnotherServersDisksAreNotPromised(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		args []string
		want bool
	}{
		{"embedded", nil, true},
		{"embedded, flush", []string{"--durability=flush"}, false},
		{"external", []string{"--nats-url=nats://n"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg, err := load(t, tt.args, nil, "")
			if err != nil {
				t.Fatal(err)
			}
			if got := cfg.Fsync(); got != tt.want {
				t.Errorf("Fsync is %t, want %t", got, tt.want)
			}
		})
	}
}

// Flags of the command that are not settings stay its own.
func TestForeignFlagsAreLeftAlone(t *testing.T) {
	t.Parallel()
	flags := config.Flags()
	flags.String("config", "", "")
	if err := flags.Parse([]string{"--config=x", "--demo"}); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(flags, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if !cfg.Demo {
		t.Error("demo is false, want true")
	}
}

func TestSecretsDoNotShow(t *testing.T) {
	t.Parallel()
	cfg, err := load(t, nil, []string{
		"POSTHORN_ADMIN_KEY=hush-a", "POSTHORN_SEAL_KEY=hush-b",
		"POSTHORN_NATS_URL=nats://user:hush-c@a:4222,nats://hush-d@b:4222", "POSTHORN_REDIS_URL=redis://:hush-e@r:6379/0?password=hush-f",
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.AdminKey.Reveal() + cfg.SealKey.Reveal(); got != "hush-ahush-b" {
		t.Errorf("revealed %q, want both keys", got)
	}
	var out bytes.Buffer
	if err := cfg.Print(&out); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&out, "%v %+v %#v\n", *cfg, cfg, cfg)
	slog.New(slog.NewTextHandler(&out, nil)).Info("", "admin", cfg.AdminKey, "nats", cfg.NATSURL, "config", cfg)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("", "admin", cfg.AdminKey, "nats", cfg.NATSURL, "config", cfg)
	if strings.Contains(out.String(), "hush") {
		t.Errorf("a secret shows:\n%s", out.String())
	}
	for _, want := range []string{"admin-key: '***'", "nats://user:***@a:4222,nats://***@b:4222", "redis://:***@r:6379/0?***"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q does not show:\n%s", want, out.String())
		}
	}
}

func TestAnUnreadableURLDoesNotShowItsPassword(t *testing.T) {
	t.Parallel()
	for _, u := range []string{"redis://:hush@host:port", "hush@host", "nats://a:hu%sh@b", "nats://a,nats://b:hush@%%"} {
		_, err := load(t, []string{"--redis-url=" + u}, nil, "")
		if err == nil || strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), "hu%sh") {
			t.Errorf("for %s the error is %v, want one without the password", u, err)
		}
	}
}

// What is printed can be read again, so that it can be edited and kept.
func TestPrintedIsReadBack(t *testing.T) {
	t.Parallel()
	want, err := load(t, []string{"--role=api,broker", "--allow-net=::1,10.0.0.0/8", "--log-level=warn", "--store-max-age=90m", "--data=a: b # c"}, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := want.Print(&out); err != nil {
		t.Fatal(err)
	}
	got, err := load(t, nil, nil, strings.ReplaceAll(out.String(), "admin-key:", "# admin-key:"))
	if err != nil {
		t.Fatalf("%v, in\n%s", err, out.String())
	}
	if diff := cmp.Diff(want, got, equal); diff != "" {
		t.Errorf("(-printed +read):\n%s", diff)
	}
}

const sampleFile = "../../docs/posthorn.yaml"

// The sample is documentation, and documentation drifts unless it is held.
func TestSampleHoldsEveryDefault(t *testing.T) {
	t.Parallel()
	var want bytes.Buffer
	if err := config.WriteSample(&want); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(sampleFile, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sample, err := os.ReadFile(sampleFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), string(sample)); diff != "" {
		t.Errorf("docs/posthorn.yaml is out of date; UPDATE_GOLDEN=1 go test ./pkg/config writes it (-want +file):\n%s", diff)
	}
	uncommented := regexp.MustCompile(`(?m)^(\s*)#(\S)`).ReplaceAllString(string(sample), "$1$2")
	for name, text := range map[string]string{"as it is": string(sample), "uncommented": uncommented} {
		got, err := load(t, nil, nil, text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(config.Default(), got, equal); diff != "" {
			t.Errorf("%s, the sample is not the default (-default +sample):\n%s", name, diff)
		}
	}
	if !strings.Contains(uncommented, "\n  max-age: 336h\n") {
		t.Error("uncommenting left store.max-age a comment: this test shows nothing")
	}
}

func TestFileIsTheOneNamed(t *testing.T) {
	t.Parallel()
	env := []string{"POSTHORN_CONFIG=/etc/posthorn.yaml"}
	if got := config.File("mine.yaml", env); got != "mine.yaml" {
		t.Errorf("File is %q, want the one that is named", got)
	}
	if got := config.File("", env); got != "/etc/posthorn.yaml" {
		t.Errorf("File is %q, want POSTHORN_CONFIG's", got)
	}
	if got := config.File("", nil); got != "" {
		t.Errorf("File is %q, want none", got)
	}
}

func TestMissingFileIsAnError(t *testing.T) {
	t.Parallel()
	_, err := config.Load(nil, nil, "no/such/posthorn.yaml")
	if err == nil || !strings.Contains(err.Error(), "no/such/posthorn.yaml") {
		t.Errorf("error is %v, want one that names the file", err)
	}
}
