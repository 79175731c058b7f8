package main

import (
	"net/http/httptest"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"posthorn": main})
}

// The scripts see the binary as a shell does, against a fake of the REST API
// whose key is "secret".
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			srv := httptest.NewServer(newFake("secret"))
			env.Defer(srv.Close)
			env.Setenv("POSTHORN_SERVER", srv.URL)
			env.Setenv("POSTHORN_API_KEY", "secret")
			env.Setenv("TZ", "UTC")
			// With -race every process would wait a second before it ends.
			env.Setenv("GORACE", "atexit_sleep_ms=10")
			return nil
		},
	})
}
