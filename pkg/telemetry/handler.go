package telemetry

import (
	"encoding/json"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// NewRegistry returns a registry with the metrics of the Go runtime, of the
// process and of the build.
func NewRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
	)
	return reg
}

// Handler serves /metrics, /healthz (200 while all parts run), /readyz (200
// while the process is alive and all checks pass) and, if profiles is true,
// /debug/pprof/. Health answers 503 otherwise, and both times a [Report].
//
// It is for operators: it asks nobody who they are, and belongs on a port that
// only they can reach.
func Handler(reg *prometheus.Registry, health *Health, profiles bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeReport(w, health.Live())
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		writeReport(w, health.Ready(r.Context()))
	})
	if profiles {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// A Report is the body of /healthz and /readyz.
type Report struct {
	Status string            `json:"status"` // "ok" or "failed"
	Checks map[string]Result `json:"checks"` // by the name of a part or check
}

// A Result is one part's or check's.
type Result struct {
	Status string `json:"status"` // "ok" or "failed"
	Error  string `json:"error,omitempty"`
}

const (
	statusOK     = "ok"
	statusFailed = "failed"
)

func writeReport(w http.ResponseWriter, results map[string]error) {
	report := Report{Status: statusOK, Checks: make(map[string]Result, len(results))}
	for name, err := range results {
		result := Result{Status: statusOK}
		if err != nil {
			result = Result{Status: statusFailed, Error: err.Error()}
			report.Status = statusFailed
		}
		report.Checks[name] = result
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if report.Status != statusOK {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	// The error is the reader's, who has gone.
	_ = json.NewEncoder(w).Encode(report)
}
