package trace_test

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/commit"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/ledger"
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/store"
	"github.com/posthornhq/posthorn/pkg/trace"
)

// How what is generated is made up: an event has two deliveries; of a hundred events
// one has a delivery that is tried twice, and of ten thousand one has a dead letter. Of
// a hundred events one is of source "rare".
const (
	benchSubscriptions = 20
	benchWriters       = 4
)

// BenchmarkLists measures the pages of lists over POSTHORN_BENCH_ATTEMPTS attempts
// (200,000 by default), which it generates first.
func BenchmarkLists(b *testing.B) {
	attempts := 200_000
	if s := os.Getenv("POSTHORN_BENCH_ATTEMPTS"); s != "" {
		var err error
		if attempts, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	tracer, letters, ids := generate(b, attempts)
	for _, q := range []struct {
		name string
		trace.Query
	}{
		{"all", trace.Query{}},
		{"of a frequent source", trace.Query{Source: "shop"}},
		{"of a rare source", trace.Query{Source: "rare"}},
		{"of no source", trace.Query{Source: "none"}},
		{"delivered", trace.Query{Status: trace.Delivered}},
		{"failed", trace.Query{Status: trace.Failed}},
		{"retrying", trace.Query{Status: trace.Retrying}},
	} {
		q.Limit = 50
		b.Run("events "+q.name+", first page", func(b *testing.B) {
			for b.Loop() {
				if _, _, err := tracer.List(b.Context(), q.Query); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("events "+q.name+", from the middle", func(b *testing.B) {
			q := q.Query
			q.Cursor = strconv.Itoa(len(ids) / 2)
			for b.Loop() {
				if _, _, err := tracer.List(b.Context(), q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for name, q := range map[string]deadletter.Query{
		"all": {}, "of a subscription": {Subscription: "s7"}, "of no status": {Status: "418"},
	} {
		q.Limit = 50
		b.Run("dead letters "+name, func(b *testing.B) {
			for b.Loop() {
				if _, _, err := letters.List(b.Context(), q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// generate writes events, attempts and dead letters as the platform does, but faster,
// and returns the events' IDs in order.
func generate(b *testing.B, attempts int) (*trace.Tracer, *deadletter.Letters, []string) {
	b.Helper()
	js := jstest.WithTopology(b, topology.Config{Budget: 256 << 30})
	nc, log := js.Conn(), slog.New(slog.DiscardHandler)
	events, err := store.New(nc, (*commit.Barrier)(nil), log, nil, store.Config{})
	if err != nil {
		b.Fatal(err)
	}
	l, err := ledger.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	letters, err := deadletter.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := js.CreateConsumer(b.Context(), topology.StreamEvents, topology.Router(0)); err != nil {
		b.Fatal(err)
	}
	ids := make([]string, attempts/2)
	now := time.Now()
	for i := range ids {
		var u ulid.ULID
		if err := u.SetTime(ulid.Timestamp(now)); err != nil {
			b.Fatal(err)
		}
		binary.BigEndian.PutUint64(u[8:], uint64(i))
		ids[i] = "ev_" + u.String()
	}
	begun := time.Now()
	var wg sync.WaitGroup
	for w := range benchWriters {
		wg.Go(func() {
			part := ids[w*len(ids)/benchWriters : (w+1)*len(ids)/benchWriters]
			if err := write(js, part, w*len(ids)/benchWriters); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	for _, name := range []string{topology.StreamEvents, topology.StreamAttempts, topology.StreamDeadLetters} {
		s, err := js.Stream(b.Context(), name)
		if err != nil {
			b.Fatal(err)
		}
		b.Logf("%s has %d messages in %d MiB", name, s.CachedInfo().State.Msgs, s.CachedInfo().State.Bytes>>20)
	}
	b.Logf("generated in %s", time.Since(begun).Round(time.Second))
	return trace.New(js, events, l, letters), letters, ids
}

// write writes what happened to some events, the first of which is the one numbered
// from.
func write(js jetstream.JetStream, ids []string, from int) error {
	pub, err := jetstream.New(js.Conn(), jetstream.WithPublishAsyncMaxPending(4000))
	if err != nil {
		return err
	}
	subject := topology.EventSubject(event.Outgoing, event.DefaultContext, pattern.EncodeType("order.created"))
	put := func(m *nats.Msg) error {
		_, err := pub.PublishMsgAsync(m)
		return err
	}
	at := time.Now().UTC().Format(time.RFC3339Nano)
	for i, id := range ids {
		n := from + i
		source := "shop"
		if n%100 == 0 {
			source = "rare"
		}
		if err := put(&nats.Msg{Subject: subject, Data: []byte(id), Header: nats.Header{
			topology.HeaderType: {"order.created"}, topology.HeaderSource: {source}, topology.HeaderRevision: {"1"},
		}}); err != nil {
			return err
		}
		for k := range 2 {
			sub := "s" + strconv.Itoa((n+k)%benchSubscriptions)
			try := func(number int, outcome event.Outcome) error {
				data := fmt.Appendf(nil, `{"event":%q,"type":"order.created","subscription":%q,"round":1,"number":%d,"outcome":%q,"destination":"https://shop.example/hook","status":200,"at":%q,"latency":12345678,"queued":%q}`,
					id, sub, number, outcome, at, at)
				return put(&nats.Msg{Subject: topology.AttemptSubject(id, sub, string(outcome)), Data: data})
			}
			switch {
			case k == 0 && n%10_000 == 1:
				if err := try(1, event.Exhausted); err != nil {
					return err
				}
				if err := put(&nats.Msg{Subject: topology.DeadLetterSubject(sub), Data: fmt.Appendf(nil,
					`{"event":%q,"subscription":%q,"round":1,"attempts":1,"reason":"exhausted","status":503,"at":%q}`, id, sub, at)}); err != nil {
					return err
				}
				continue
			case k == 0 && n%100 == 1:
				if err := try(1, event.Retry); err != nil {
					return err
				}
			}
			if err := try(2, event.Delivered); err != nil {
				return err
			}
		}
	}
	<-pub.PublishAsyncComplete()
	return nil
}
