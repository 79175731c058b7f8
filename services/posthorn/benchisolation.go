package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// isolationRow is what bad endpoints cost the good ones, or what becomes of a bad
// one when it is good again.
type isolationRow struct {
	Name string `json:"name"`
	// Without and With the bad endpoints; in Unit.
	Without float64 `json:"without"`
	With    float64 `json:"with"`
	Unit    string  `json:"unit"`
	// Ratio is With by Without, and Bar what it, or where Absolute With, must keep.
	Ratio float64 `json:"ratio"`
	Bar   string  `json:"bar"`
	Kept  bool    `json:"kept"`
}

const (
	// The bars of docs/performance.md.
	hangRatio    = 1.5  // p99 of the healthy half
	hangLate     = 100  // ms that anything healthy may be late
	deadRatio    = 0.8  // healthy deliveries a second
	backWithin   = 60.0 // seconds to the first delivery
	isolationMax = 1000 // subscriptions
	isolationBad = 50   // of them
)

func showIsolation(ctx context.Context, a *app, o *benchOptions) error {
	rows, err := isolation(ctx, o)
	if err != nil {
		return err
	}
	doc, err := json.Marshal(rows)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if err := a.show(doc, func(t *table) {
		t.row("WHAT", "WITHOUT", "WITH", "UNIT", "RATIO", "BAR", "KEPT")
		for _, r := range rows {
			t.row(r.Name, fmt.Sprintf("%.2f", r.Without), fmt.Sprintf("%.2f", r.With), r.Unit, fmt.Sprintf("%.2f", r.Ratio), r.Bar, strconv.FormatBool(r.Kept))
		}
	}); err != nil {
		return err
	}
	for _, r := range rows {
		if !r.Kept {
			return fmt.Errorf("bench: %s: %.2f %s, which is not %s", r.Name, r.With, r.Unit, r.Bar)
		}
	}
	return nil
}

func isolation(ctx context.Context, o *benchOptions) ([]isolationRow, error) {
	if _, err := o.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sink, endpoint, err := startSink(ctx)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer sink.stop()
	var rows []isolationRow
	for _, measure := range []func(context.Context, *benchOptions, *benchEndpoint) ([]isolationRow, error){measureHang, measureDead, measureBack} {
		got, err := measure(ctx, o, endpoint)
		if err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
		rows = append(rows, got...)
	}
	return rows, nil
}

// measureHang publishes at a fixed rate, half of it to an endpoint that answers,
// and then to one that hangs.
func measureHang(ctx context.Context, o *benchOptions, endpoint *benchEndpoint) ([]isolationRow, error) {
	o.progress("an endpoint that hangs")
	p, addrs, err := startPlatform(ctx, o, "flush")
	if err != nil {
		return nil, err
	}
	defer p.stop()
	other, neighbour, err := startSink(ctx)
	if err != nil {
		return nil, err
	}
	defer other.stop()
	subscribe := func(url string) error {
		return putAll(ctx, "http://"+addrs[0], benchKey, map[string]string{
			"/api/v1/sources/bench":      `{"kind":"GENERIC","type":"bench.event"}`,
			"/api/v1/subscriptions/good": hookSubscription("bench.good", endpoint.hook()),
			"/api/v1/subscriptions/bad":  hookSubscription("bench.bad", url),
		})
	}
	var at [2]*arrivals
	for i, url := range []string{neighbour.hook(), endpoint.hang()} {
		if err := subscribe(url); err != nil {
			return nil, p.explain(err)
		}
		if at[i], err = sendBoth(ctx, o, addrs[0], endpoint); err != nil {
			return nil, p.explain(err)
		}
	}
	without, with := at[0], at[1]
	late := with.Max - without.P50
	return []isolationRow{
		{
			Name: "p99 beside an endpoint that hangs", Without: without.P99, With: with.P99, Unit: "ms", Ratio: with.P99 / without.P99,
			Bar: fmt.Sprintf("at most %.1f times", hangRatio), Kept: with.P99 <= hangRatio*without.P99,
		},
		{
			Name: "latest beside an endpoint that hangs", Without: without.Max, With: with.Max, Unit: "ms", Ratio: with.Max / without.Max,
			Bar: fmt.Sprintf("at most %d ms more than the median", hangLate), Kept: late <= hangLate,
		},
	}, nil
}

func hookSubscription(typ, url string) string {
	return `{"types":["` + typ + `"],"direction":"INCOMING","destination":{"webhook":{"url":"` + url + `"}}}`
}

// sendBoth sends half of the rate to each of two subscriptions, and waits for the
// good one's.
func sendBoth(ctx context.Context, o *benchOptions, addr string, endpoint *benchEndpoint) (*arrivals, error) {
	number, err := endpoint.begin(ctx)
	if err != nil {
		return nil, err
	}
	half := *o
	half.connections = max(1, o.connections/2)
	var wg sync.WaitGroup
	var good, bad result
	var goodErr, badErr error
	wg.Go(func() {
		good, goodErr = httpSender(addr, "/events/bench/bench.good", &half)(ctx, load{number: number, duration: o.duration, rate: max(1, o.rate/2)})
	})
	wg.Go(func() {
		bad, badErr = httpSender(addr, "/events/bench/bench.bad", &half)(ctx, load{number: number, duration: o.duration, rate: max(1, o.rate/2)})
	})
	wg.Wait()
	if goodErr != nil || badErr != nil {
		return nil, fmt.Errorf("publish: %w", firstError(goodErr, badErr))
	}
	if bad.accepted == 0 {
		return nil, fmt.Errorf("nothing was sent to the other subscription")
	}
	return endpoint.drained(ctx, good.accepted)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// measureDead runs a closed loop over many subscriptions, first with none dead and
// then with some: half of those refuse connections, and half hang.
func measureDead(ctx context.Context, o *benchOptions, endpoint *benchEndpoint) ([]isolationRow, error) {
	o.progress(fmt.Sprintf("%d subscriptions of which %d are dead", isolationMax, isolationBad))
	nobody, err := freeAddrs(ctx, 1)
	if err != nil {
		return nil, err
	}
	var rate [2]float64
	for i, dead := range []int{0, isolationBad} {
		if rate[i], err = measureMany(ctx, o, endpoint, func(n int) string {
			switch {
			case n >= dead:
				return endpoint.hook()
			case n%2 == 0:
				return endpoint.hang()
			}
			return "http://" + nobody[0] + "/hook"
		}, dead); err != nil {
			return nil, err
		}
	}
	return []isolationRow{{
		Name:    fmt.Sprintf("healthy deliveries beside %d of %d that are dead", isolationBad, isolationMax),
		Without: rate[0], With: rate[1], Unit: "a second", Ratio: rate[1] / rate[0],
		Bar: fmt.Sprintf("at least %.1f times", deadRatio), Kept: rate[1] >= deadRatio*rate[0],
	}}, nil
}

// measureMany returns how many events a second the good ones of many subscriptions
// get, each of which has a type of its own.
func measureMany(ctx context.Context, o *benchOptions, endpoint *benchEndpoint, url func(n int) string, dead int) (float64, error) {
	p, addrs, err := startPlatform(ctx, o, "flush")
	if err != nil {
		return 0, err
	}
	defer p.stop()
	resources := map[string]string{"/api/v1/sources/bench": `{"kind":"GENERIC","type":"bench.event"}`}
	heads := make([][]byte, isolationMax)
	for n := range isolationMax {
		name := "s" + strconv.Itoa(n)
		resources["/api/v1/subscriptions/"+name] = hookSubscription("bench."+name, url(n))
		heads[n] = httpHead(addrs[0], "/events/bench/bench."+name, o)
	}
	if err := putAll(ctx, "http://"+addrs[0], benchKey, resources); err != nil {
		return 0, p.explain(err)
	}
	number, err := endpoint.begin(ctx)
	if err != nil {
		return 0, err
	}
	send := httpSenderTo(addrs[0], func(seq int) []byte { return heads[seq%isolationMax] }, o)
	r, err := send(ctx, load{number: number, duration: o.duration})
	if err != nil {
		return 0, p.explain(err)
	}
	at, err := endpoint.drained(ctx, healthy(r.accepted, dead))
	if err != nil {
		return 0, p.explain(err)
	}
	return float64(at.Events) / time.Unix(0, at.Last).Sub(r.begun).Seconds(), nil
}

// healthy returns how many of the first n events are not of the first dead of
// isolationMax subscriptions.
func healthy(n, dead int) int {
	whole, rest := n/isolationMax, n%isolationMax
	return whole*(isolationMax-dead) + max(0, rest-dead)
}

// measureBack fills the lane of an endpoint that is down, and lets it come back.
func measureBack(ctx context.Context, o *benchOptions, endpoint *benchEndpoint) ([]isolationRow, error) {
	const backlog = 100_000
	o.progress(fmt.Sprintf("an endpoint that comes back to %d events", backlog))
	p, addrs, err := startPlatform(ctx, o, "flush")
	if err != nil {
		return nil, err
	}
	defer p.stop()
	if err := setUpPlatform(ctx, "http://"+addrs[0], benchKey, endpoint.hook()); err != nil {
		return nil, p.explain(err)
	}
	// How fast deliveries are with the endpoint up.
	number, err := endpoint.begin(ctx)
	if err != nil {
		return nil, err
	}
	send := httpSender(addrs[0], "/events/bench", o)
	r, err := send(ctx, load{number: number, duration: o.duration})
	if err != nil {
		return nil, p.explain(err)
	}
	up, err := endpoint.drained(ctx, r.accepted)
	if err != nil {
		return nil, p.explain(err)
	}
	speed := float64(up.Events) / time.Unix(0, up.Last).Sub(r.begun).Seconds()

	if number, err = endpoint.begin(ctx); err != nil {
		return nil, err
	}
	if _, err := endpoint.ask(ctx, http.MethodPost, "/close"); err != nil {
		return nil, err
	}
	if r, err = sendCount(ctx, o, addrs[0], number, backlog); err != nil {
		return nil, p.explain(err)
	}
	memory := peakMemory(p.cmd.Process.Pid)
	opened := time.Now()
	if _, err := endpoint.ask(ctx, http.MethodPost, "/open"); err != nil {
		return nil, err
	}
	at, err := endpoint.drained(ctx, r.accepted)
	if err != nil {
		return nil, p.explain(err)
	}
	first := time.Unix(0, at.First).Sub(opened).Seconds()
	drain := float64(at.Events) / time.Unix(0, at.Last).Sub(time.Unix(0, at.First)).Seconds()
	return []isolationRow{
		{
			Name: "first delivery when a dead endpoint is back", With: first, Unit: "s",
			Bar: fmt.Sprintf("at most %.0f s", backWithin), Kept: first <= backWithin,
		},
		{
			Name: fmt.Sprintf("its backlog of %d drains", backlog), Without: speed, With: drain, Unit: "a second", Ratio: drain / speed,
			Bar: "at least 0.8 times", Kept: drain >= 0.8*speed,
		},
		{Name: "peak memory with the backlog", With: memory, Unit: "MB", Bar: "", Kept: true},
	}, nil
}

// sendCount sends in a closed loop until n events are accepted.
func sendCount(ctx context.Context, o *benchOptions, addr string, number, n int) (result, error) {
	counted := *o
	counted.count = n
	return httpSender(addr, "/events/bench", &counted)(ctx, load{number: number, duration: time.Hour})
}
