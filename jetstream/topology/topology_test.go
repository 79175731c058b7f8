package topology_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/event"
)

var update = flag.Bool("update", false, "write assets/ anew")

// The files are what an operator feeds to "nats stream add --config".
func TestAssetFilesAreTheTopology(t *testing.T) {
	assets := topology.Assets(topology.Config{})
	names := map[string]bool{}
	for _, a := range assets {
		file := filepath.Join("assets", a.Stream.Name+".json")
		names[a.Stream.Name+".json"] = true
		want, err := json.MarshalIndent(a.Stream, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, '\n')
		if *update {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s is not the topology; run go test ./jetstream/topology -update (-topology +file):\n%s", file, diff)
		}
	}
	files, err := os.ReadDir("assets")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !names[f.Name()] {
			t.Errorf("assets/%s is of no asset", f.Name())
		}
	}
}

func TestEnsureCreatesAllAndThenHasNothingToDo(t *testing.T) {
	t.Parallel()
	js := jstest.New(t)
	done, err := topology.Ensure(t.Context(), js, topology.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(done), len(topology.Assets(topology.Config{})); got != want {
		t.Errorf("made %d assets, want %d", got, want)
	}
	again, err := topology.Ensure(t.Context(), js, topology.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if len(again) != 0 {
		t.Errorf("the second Ensure did %v, want nothing", again)
	}
	for _, bucket := range []string{topology.BucketEvents, topology.BucketConfig, topology.BucketDedup} {
		if _, err := js.KeyValue(t.Context(), bucket); err != nil {
			t.Errorf("nats.go does not know bucket %s: %v", bucket, err)
		}
	}
	if _, err := js.ObjectStore(t.Context(), topology.ObjectsPayloads); err != nil {
		t.Errorf("nats.go does not know object store %s: %v", topology.ObjectsPayloads, err)
	}
}

func TestEnsureWidensButNeverShrinks(t *testing.T) {
	t.Parallel()
	small := topology.Config{AttemptsBytes: 64 << 20, AttemptsAge: time.Hour}
	large := topology.Config{AttemptsBytes: 128 << 20, AttemptsAge: 2 * time.Hour}
	js := jstest.WithTopology(t, small)

	done, err := topology.Ensure(t.Context(), js, large)
	if err != nil {
		t.Fatal(err)
	}
	want := []topology.Difference{
		{Asset: "ATTEMPTS", Field: "max_bytes", Have: "67108864 B", Want: "134217728 B", Verdict: topology.Widen},
		{Asset: "ATTEMPTS", Field: "max_age", Have: "1h0m0s", Want: "2h0m0s", Verdict: topology.Widen},
	}
	if diff := cmp.Diff(want, done); diff != "" {
		t.Errorf("widening (-want +got):\n%s", diff)
	}

	_, err = topology.Ensure(t.Context(), js, small)
	refused, ok := errors.AsType[*topology.RefusedError](err)
	if !ok {
		t.Fatalf("shrinking: got error %v, want a RefusedError", err)
	}
	if len(refused.Differences) != 2 {
		t.Errorf("refused %v, want the bytes and the age", refused.Differences)
	}
	s, err := js.Stream(t.Context(), topology.StreamAttempts)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.CachedInfo().Config.MaxBytes; got != 128<<20 {
		t.Errorf("after a refused shrink the limit is %d, want %d", got, 128<<20)
	}
}

// The disk has less free space at every start; the share that a stream got
// when it was made must not become a reason to refuse.
func TestASmallerBudgetLeavesSharesAlone(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{Budget: 8 << 30})
	diffs, err := topology.Diff(t.Context(), js, topology.Config{Budget: 4 << 30})
	if err != nil {
		t.Fatal(err)
	}
	if len(diffs) != 0 {
		t.Errorf("differences %v, want none", diffs)
	}
}

// The room for events bounds each of the three streams that an event is in. Such as
// were made when it bounded one alone are left as they are, until there shall be more.
func TestTheRoomForEventsBoundsTheirPayloadsAndIDs(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	limits := func(js jetstream.JetStream) [3]int64 {
		t.Helper()
		var out [3]int64
		for i, name := range []string{"KV_events", "OBJ_payloads", "EVENTS"} {
			s, err := js.Stream(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			out[i] = s.CachedInfo().Config.MaxBytes / mib
		}
		return out
	}
	ensure := func(js jetstream.JetStream, c topology.Config, want [3]int64) {
		t.Helper()
		if _, err := topology.Ensure(t.Context(), js, c); err != nil {
			t.Errorf("%+v is refused: %v", c, err)
		}
		if got := limits(js); got != want {
			t.Errorf("the events, payloads and IDs have %v MiB, want %v", got, want)
		}
	}
	js := jstest.WithTopology(t, topology.Config{Budget: 8 << 30, EventsBytes: 40 * mib})
	ensure(js, topology.Config{Budget: 4 << 30, EventsBytes: 40 * mib}, [3]int64{40, 40, 40})
	ensure(js, topology.Config{Budget: 4 << 30}, [3]int64{40, 40, 40})
	ensure(js, topology.Config{EventsBytes: 80 * mib}, [3]int64{80, 80, 80})
	ensure(js, topology.Config{EventsBytes: 90 * mib, PayloadsBytes: 100 * mib}, [3]int64{90, 100, 90})
	_, err := topology.Ensure(t.Context(), js, topology.Config{EventsBytes: 40 * mib})
	if refused, ok := errors.AsType[*topology.RefusedError](err); !ok || len(refused.Differences) != 1 || refused.Differences[0].Asset != "KV_events" {
		t.Errorf("less room gives %v, want the events refused", err)
	}

	// As they were made before: with shares of the budget.
	js = jstest.WithTopology(t, topology.Config{Budget: 1000 * mib, EventsBytes: 150 * mib, PayloadsBytes: 200 * mib})
	s, err := js.Stream(t.Context(), "EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.MaxBytes = 100 * mib
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	ensure(js, topology.Config{EventsBytes: 150 * mib}, [3]int64{150, 200, 100})
	ensure(js, topology.Config{EventsBytes: 160 * mib}, [3]int64{160, 200, 160})
}

func TestEnsureKeepsWhatAnOperatorAdded(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	s, err := js.Stream(t.Context(), topology.StreamAttempts)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.Metadata["team"] = "payments"
	cfg.Description = "changed by hand"
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Ensure(t.Context(), js, topology.Config{}); err != nil {
		t.Fatal(err)
	}
	s, err = js.Stream(t.Context(), topology.StreamAttempts)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.CachedInfo().Config.Metadata["team"]; got != "payments" {
		t.Errorf("metadata team is %q after Ensure, want it kept", got)
	}
	if got := s.CachedInfo().Config.Description; got == "changed by hand" {
		t.Error("the description was not put back")
	}
}

func TestDeliverySubjectsAreReversible(t *testing.T) {
	t.Parallel()
	for _, p := range event.Priorities() {
		subj := topology.DeliverySubject("default", p, "orders-erp")
		d, ok := topology.ParseDeliverySubject(subj)
		if !ok || d.Policy != "default" || d.Priority != p || d.Subscription != "orders-erp" || d.Own {
			t.Errorf("%s was read as %+v %v", subj, d, ok)
		}
		policy, prio, ok := topology.ParseLaneConsumer(topology.LaneConsumer("my-policy", p))
		if !ok || policy != "my-policy" || prio != p {
			t.Errorf("consumer of my-policy %v was read as %q %v %v", p, policy, prio, ok)
		}
	}
}

func TestOwnDeliverySubjectsAreReversible(t *testing.T) {
	t.Parallel()
	for _, part := range []int{0, 1, 16} {
		subj := topology.OwnDeliverySubject("orders-erp", part)
		d, ok := topology.ParseDeliverySubject(subj)
		if !ok || d.Subscription != "orders-erp" || d.Part != part || !d.Own {
			t.Errorf("%s was read as %+v %v", subj, d, ok)
		}
		name := topology.OwnLaneConsumer("orders-erp", part)
		if sub, n, ok := topology.ParseOwnLaneConsumer(name); !ok || sub != "orders-erp" || n != part {
			t.Errorf("%s was read as %q %d %v", name, sub, n, ok)
		}
		if policy, p, ok := topology.ParseLaneConsumer(name); ok {
			t.Errorf("%s was taken for the shared lane of %s and %s", name, policy, p)
		}
	}
	// A subscription and a policy may have any name, also these.
	if sub, _, ok := topology.ParseOwnLaneConsumer(topology.LaneConsumer("lane", event.High)); ok {
		t.Errorf("a shared lane was taken for that of %s", sub)
	}
	for _, wrong := range []string{"deliveries.lane.", "deliveries.lane.a.b", "deliveries.lane.a.0", "deliveries.lane.a.-1", "deliveries.own.a"} {
		if d, ok := topology.ParseDeliverySubject(wrong); ok {
			t.Errorf("%s was read as %+v", wrong, d)
		}
	}
}

func TestConsumersAreAccepted(t *testing.T) {
	t.Parallel()
	js := jstest.WithTopology(t, topology.Config{})
	lane := topology.Lane("default", event.High, 6, 20*time.Second, map[string]string{"posthorn.schedule": "1s 2s"})
	for stream, c := range map[string]jetstream.ConsumerConfig{
		topology.StreamEvents:     topology.Router(0),
		topology.StreamDeliveries: lane,
		topology.StreamAdvisories: topology.Advisories(),
	} {
		if _, err := js.CreateOrUpdateConsumer(t.Context(), stream, c); err != nil {
			t.Errorf("%s on %s: %v", c.Durable, stream, err)
		}
	}
}
