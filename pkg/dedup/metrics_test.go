package dedup_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/posthornhq/posthorn/pkg/dedup"
	"github.com/posthornhq/posthorn/pkg/dedup/redistest"
)

func TestInstrumentedCounts(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	reg := prometheus.NewPedanticRegistry()
	c, err := dedup.Instrument(dedup.NewRedis(server.Client(), ""), reg)
	if err != nil {
		t.Fatal(err)
	}
	mustClaim(t, c, "ingest:a:k", "ev_1")      // fresh
	mustClaim(t, c, "ingest:a:k", "ev_2")      // duplicate
	mustClaim(t, c, "ingest:a:k", "ev_3")      // duplicate
	mustClaim(t, c, "delivery:ev_1:s:1", "17") // fresh
	mustClaim(t, c, "delivery:ev_1:s:1", "17") // own
	mustDone(t, c, "delivery:ev_1:s:1", "17")
	mustClaim(t, c, "delivery:ev_1:s:1", "17") // done
	mustClaim(t, c, "evil\"}:x", "ev_1")       // fresh, of no kind
	server.Kill()
	if _, err := c.Claim(t.Context(), "ingest:b:k", "ev_1", hour); err == nil {
		t.Fatal("claim without Redis succeeds")
	}

	const want = `
# HELP posthorn_dedup_claims_total Claims on keys, by what was answered.
# TYPE posthorn_dedup_claims_total counter
posthorn_dedup_claims_total{kind="delivery",result="done"} 1
posthorn_dedup_claims_total{kind="delivery",result="duplicate"} 0
posthorn_dedup_claims_total{kind="delivery",result="error"} 0
posthorn_dedup_claims_total{kind="delivery",result="fresh"} 1
posthorn_dedup_claims_total{kind="delivery",result="own"} 1
posthorn_dedup_claims_total{kind="delivery",result="unsure"} 0
posthorn_dedup_claims_total{kind="ingest",result="done"} 0
posthorn_dedup_claims_total{kind="ingest",result="duplicate"} 2
posthorn_dedup_claims_total{kind="ingest",result="error"} 1
posthorn_dedup_claims_total{kind="ingest",result="fresh"} 1
posthorn_dedup_claims_total{kind="ingest",result="own"} 0
posthorn_dedup_claims_total{kind="ingest",result="unsure"} 0
posthorn_dedup_claims_total{kind="other",result="done"} 0
posthorn_dedup_claims_total{kind="other",result="duplicate"} 0
posthorn_dedup_claims_total{kind="other",result="error"} 0
posthorn_dedup_claims_total{kind="other",result="fresh"} 1
posthorn_dedup_claims_total{kind="other",result="own"} 0
posthorn_dedup_claims_total{kind="other",result="unsure"} 0
# HELP posthorn_dedup_errors_total Calls that the backend of claims did not answer.
# TYPE posthorn_dedup_errors_total counter
posthorn_dedup_errors_total{operation="claim"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if _, err := dedup.Instrument(c, reg); err == nil {
		t.Error("metrics are registered twice without an error")
	}
}
