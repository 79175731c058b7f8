package api_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
	"github.com/posthornhq/posthorn/services/api"
)

// eachWay runs a test with the servers in this process, and with the servers
// behind a gRPC connection: REST must not show which it is.
func eachWay(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		test(t, newRig(t))
	})
	t.Run("remote", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		var err error
		if r.handler, err = api.NewHandler(t.Context(), r.serve(), nil, slog.New(slog.DiscardHandler), api.RESTConfig{MaxEventBytes: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		test(t, r)
	})
}

// serve offers the API on a loopback port until the test ends.
func (r *rig) serve() *grpc.ClientConn {
	r.t.Helper()
	auth := r.who
	s := grpc.NewServer(grpc.UnaryInterceptor(api.UnaryAuth(auth)), grpc.StreamInterceptor(api.StreamAuth(auth)))
	r.api.Register(s)
	posthornv1.RegisterSchemaRegistryServer(s, r.schemas)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(l); err != nil {
			r.t.Errorf("serve: %v", err)
		}
	})
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			r.t.Error(err)
		}
		s.Stop()
		wg.Wait()
	})
	return conn
}

func (r *rig) authorized(ctx context.Context, more ...string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, append([]string{"authorization", "Bearer " + r.key}, more...)...)
}

func TestTheAPIOverGRPC(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	conn := r.serve()
	policies := posthornv1.NewPolicyServiceClient(conn)

	_, err := policies.GetPolicy(t.Context(), &posthornv1.GetPolicyRequest{Name: "default"})
	wantCode(t, "without a key", err, codes.Unauthenticated)
	ctx := r.authorized(t.Context())
	var header metadata.MD
	p, err := policies.CreatePolicy(ctx, &posthornv1.CreatePolicyRequest{Policy: &posthornv1.Policy{Name: "p"}}, grpc.Header(&header))
	wantCode(t, "create", err, codes.OK)
	if got := header.Get("etag"); len(got) != 1 || got[0] != `"`+p.GetMeta().GetEtag()+`"` {
		t.Errorf("header etag %v, want that of the meta, %q", got, p.GetMeta().GetEtag())
	}
	_, err = policies.CreatePolicy(ctx, &posthornv1.CreatePolicyRequest{Policy: &posthornv1.Policy{Name: "p"}})
	wantCode(t, "create again", err, codes.AlreadyExists)
	_, err = policies.PutPolicy(r.authorized(t.Context(), "if-match", "1000"), &posthornv1.PutPolicyRequest{Policy: &posthornv1.Policy{Name: "p"}})
	wantCode(t, "put with another etag", err, codes.Aborted)
	_, err = policies.PutPolicy(r.authorized(t.Context(), "if-match", p.GetMeta().GetEtag()), &posthornv1.PutPolicyRequest{Policy: &posthornv1.Policy{Name: "p"}})
	wantCode(t, "put with the etag", err, codes.OK)
	_, err = policies.PutPolicy(ctx, &posthornv1.PutPolicyRequest{})
	wantCode(t, "put of nothing", err, codes.InvalidArgument)
	_, err = policies.PutPolicy(ctx, &posthornv1.PutPolicyRequest{Policy: &posthornv1.Policy{Name: "a.b"}})
	wantCode(t, "put of a name that is none", err, codes.InvalidArgument)
}

func TestWhatIsNotOfferedIsUnimplemented(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	broker := posthornv1.NewEventBrokerClient(r.serve())
	_, err := broker.SendOutgoingEvent(r.authorized(t.Context()), &posthornv1.SendOutgoingEventRequest{})
	wantCode(t, "an internal method", err, codes.Unimplemented)
	_, err = posthornv1.NewEventBrokerClient(r.local).SendOutgoingEvent(r.authorized(t.Context()), &posthornv1.SendOutgoingEventRequest{})
	wantCode(t, "an internal method in process", err, codes.Unimplemented)
}

func TestStreamsWantAKeyToo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	auth := r.who
	intercept := api.StreamAuth(auth)
	tests := []struct {
		name string
		ctx  context.Context
		want codes.Code
	}{
		{"none", t.Context(), codes.Unauthenticated},
		{"another", metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer x")), codes.Unauthenticated},
		{"the key", metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "JWT "+r.key)), codes.OK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			called := false
			err := intercept(nil, fakeStream{ctx: tt.ctx}, &grpc.StreamServerInfo{FullMethod: "/posthorn.v1.EventBroker/Publish"}, func(_ any, s grpc.ServerStream) error {
				called = true
				if id, ok := api.IdentityOf(s.Context()); !ok || id.Name != "admin" {
					t.Errorf("the stream's caller is %v, want admin", id)
				}
				return nil
			})
			wantCode(t, "stream", err, tt.want)
			if called != (tt.want == codes.OK) {
				t.Errorf("the stream was served: %t", called)
			}
		})
	}
}

type fakeStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s fakeStream) Context() context.Context { return s.ctx }

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: %v (%v), want %v", what, got, err, want)
	}
}

// What the platform adds to a publish before the broker has it.
func BenchmarkPublishOverREST(b *testing.B) {
	r := newRig(b)
	auth := r.who
	local := api.NewLocal(api.UnaryAuth(auth))
	r.api.Register(local)
	h, err := api.NewHandler(b.Context(), local, auth, slog.New(slog.DiscardHandler), api.RESTConfig{})
	if err != nil {
		b.Fatal(err)
	}
	body := `{"type":"order.created","source":"shop","tenant":"acme","idempotencyKey":"k","data":{"text":"` + strings.Repeat("x", 512) + `"}}`
	b.ReportAllocs()
	for b.Loop() {
		req := httptest.NewRequest(http.MethodPost, "/api/v1/events", strings.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+r.key)
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, req)
		if rec.Code != http.StatusAccepted {
			b.Fatalf("answered %d: %s", rec.Code, rec.Body)
		}
		r.broker.got, r.broker.keys = r.broker.got[:0], r.broker.keys[:0]
	}
}
