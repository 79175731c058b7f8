package streamtest

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthornhq/posthorn/pkg/stream"
)

// Failures returns how many operations failed in this process so far, by operation.
func Failures(t *testing.T) map[string]float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	if err := reg.Register(stream.Failures()); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			out[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	return out
}
