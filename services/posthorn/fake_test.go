package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A fake is the REST API in memory, as far as the commands need it: paths and
// shapes are those of rest.yaml and the protos, rules are a few.
type fake struct {
	http.Handler
	mu      sync.Mutex
	keys    map[string]string // idempotency key to event ID
	events  []map[string]json.RawMessage
	schemas map[string][]json.RawMessage
	replays []*posthornv1.Replay
}

func newFake(key string) *fake {
	f := &fake{keys: make(map[string]string), schemas: make(map[string][]json.RawMessage)}
	mux := http.NewServeMux()
	crud(f, mux, "sources", func() *posthornv1.Source { return new(posthornv1.Source) })
	crud(f, mux, "subscriptions", func() *posthornv1.Subscription { return new(posthornv1.Subscription) })
	crud(f, mux, "policies", func() *posthornv1.Policy { return new(posthornv1.Policy) })
	crud(f, mux, "authorizations", func() *posthornv1.Authorization { return new(posthornv1.Authorization) })
	mux.HandleFunc("POST /api/v1/subscriptions/{name}", f.testSubscription)
	mux.HandleFunc("POST /api/v1/events", f.publish)
	mux.HandleFunc("POST /api/v1/events:batch", f.publishBatch)
	mux.HandleFunc("GET /api/v1/events", f.listEvents)
	mux.HandleFunc("GET /api/v1/events/{id}", f.getEvent)
	mux.HandleFunc("GET /api/v1/events/{id}/trace", f.trace)
	mux.HandleFunc("GET /api/v1/deadletters", f.deadLetters)
	mux.HandleFunc("POST /api/v1/deadletters:retry", f.retry)
	mux.HandleFunc("DELETE /api/v1/deadletters", f.deleteLetters)
	mux.HandleFunc("PUT /api/v1/schemas/{type...}", f.putSchema)
	mux.HandleFunc("GET /api/v1/schemas/{type...}", f.getSchema)
	mux.HandleFunc("GET /api/v1/schemas", f.listSchemas)
	mux.HandleFunc("POST /api/v1/schemas:validate", f.validate)
	mux.HandleFunc("POST /api/v1/replays", f.startReplay)
	mux.HandleFunc("GET /api/v1/replays", f.listReplays)
	mux.HandleFunc("GET /api/v1/replays/{id}", f.getReplay)
	mux.HandleFunc("POST /api/v1/replays/{id}", f.cancelReplay)
	f.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if r.Header.Get("Authorization") != "Bearer "+key {
			refuse(w, 401, "the API key is not known")
			return
		}
		mux.ServeHTTP(w, r)
	})
	return f
}

// testSubscription knows subscription erp, which refuses type refuse.me.
func (f *fake) testSubscription(w http.ResponseWriter, r *http.Request) {
	req := new(posthornv1.TestSubscriptionRequest)
	body, err := io.ReadAll(r.Body)
	if err != nil || protojson.Unmarshal(body, req) != nil {
		refuse(w, 400, "the body is not a request")
		return
	}
	if r.PathValue("name") != "erp:test" {
		refuse(w, 404, "subscription %q does not exist", r.PathValue("name"))
		return
	}
	data, err := json.Marshal(req.GetData().AsInterface())
	if err != nil {
		refuse(w, 400, "data: is not JSON")
		return
	}
	out := &posthornv1.TestSubscriptionResponse{
		Ok: true, Status: 200, Outcome: "delivered", Response: "heard order.paid",
		Sent: &posthornv1.TestSubscriptionResponse_Sent{
			Method: "POST", Target: "https://erp.example/hooks", Body: string(data),
			Headers: []*posthornv1.TestSubscriptionResponse_Sent_Header{{Name: "Authorization", Value: "***"}},
		},
	}
	if req.GetType() == "refuse.me" {
		out.Ok, out.Status, out.Outcome, out.Error = false, 400, "refused", "answered 400 Bad Request"
	}
	answerProto(w, out)
}

func refuse(w http.ResponseWriter, status int, format string, args ...any) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{
		"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": fmt.Sprintf(format, args...),
	})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func answerProto(w http.ResponseWriter, m proto.Message) {
	raw, err := protojson.Marshal(m)
	if err != nil {
		panic(err)
	}
	answer(w, 200, json.RawMessage(raw))
}

// crud serves one kind of resource.
func crud[T interface {
	proto.Message
	GetName() string
	GetMeta() *posthornv1.Meta
}](f *fake, mux *http.ServeMux, path string, empty func() T) {
	stored := make(map[string]T)
	revision := 0
	write := func(w http.ResponseWriter, r *http.Request, name string) {
		body, _ := io.ReadAll(r.Body)
		v := empty()
		if err := protojson.Unmarshal(body, v); err != nil {
			refuse(w, 400, "%v", err)
			return
		}
		old, exists := stored[v.GetName()]
		switch match := r.Header.Get("If-Match"); {
		case name == "" && exists:
			refuse(w, 409, "the name is taken")
			return
		case match != "" && match != strconv.Quote(old.GetMeta().GetEtag()):
			refuse(w, 412, "it was changed by somebody else")
			return
		}
		var shown []string
		switch v := any(v).(type) {
		case *posthornv1.Subscription:
			if len(v.GetTypes()) == 0 {
				refuse(w, 400, "types: is required")
				return
			}
			if v.SecretCount = max(1, int32(len(v.Secrets))); !exists && len(v.Secrets) == 0 {
				shown = []string{"whsec_bmV3"}
			}
			v.Secrets, v.Context, v.Meta = nil, "default", nextMeta(&revision)
		case *posthornv1.Source:
			v.SecretCount = int32(len(v.Secrets))
			v.Secrets, v.Context, v.Meta = nil, "default", nextMeta(&revision)
		case *posthornv1.Policy:
			v.Meta = nextMeta(&revision)
			if slices.Contains(v.GetDelivery().GetRetryOn(), "404") {
				v.Warnings = []string{"404 is seldom gone on the next try"}
			}
		}
		stored[v.GetName()] = v
		out := proto.Clone(v)
		if s, ok := out.(*posthornv1.Subscription); ok {
			s.Secrets = shown
		}
		answerProto(w, out)
	}
	base := " /api/v1/" + path
	mux.HandleFunc("POST"+base, func(w http.ResponseWriter, r *http.Request) { write(w, r, "") })
	mux.HandleFunc("PUT"+base+"/{name}", func(w http.ResponseWriter, r *http.Request) { write(w, r, r.PathValue("name")) })
	mux.HandleFunc("GET"+base+"/{name}", func(w http.ResponseWriter, r *http.Request) {
		if v, ok := stored[r.PathValue("name")]; ok {
			answerProto(w, v)
			return
		}
		refuse(w, 404, "there is no %s", r.PathValue("name"))
	})
	mux.HandleFunc("DELETE"+base+"/{name}", func(w http.ResponseWriter, r *http.Request) {
		if _, ok := stored[r.PathValue("name")]; !ok {
			refuse(w, 404, "there is no %s", r.PathValue("name"))
			return
		}
		delete(stored, r.PathValue("name"))
		answer(w, 200, struct{}{})
	})
	mux.HandleFunc("GET"+base, func(w http.ResponseWriter, r *http.Request) {
		var names []string
		for name := range stored {
			if strings.Contains(name, r.FormValue("search")) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		var items []any
		for _, name := range names {
			raw, _ := protojson.Marshal(stored[name])
			items = append(items, json.RawMessage(raw))
		}
		answerPage(w, r, items, 2)
	})
}

func nextMeta(revision *int) *posthornv1.Meta {
	*revision++
	return &posthornv1.Meta{Etag: strconv.Itoa(*revision), UpdatedBy: "admin"}
}

// answerPage answers with a page of at most most items, fewer than asked for,
// which a server may do.
func answerPage(w http.ResponseWriter, r *http.Request, items []any, most int) {
	from, _ := strconv.Atoi(r.FormValue("cursor"))
	limit, _ := strconv.Atoi(r.FormValue("limit"))
	end := min(len(items), from+min(limit, most))
	next := ""
	if end < len(items) {
		next = strconv.Itoa(end)
	}
	answer(w, 200, map[string]any{"items": append([]any{}, items[from:end]...), "nextCursor": next})
}

// accept stores an event, or says what is wrong with it.
func (f *fake) accept(raw json.RawMessage) (receipt map[string]any, problem string) {
	var ev map[string]json.RawMessage
	if err := json.Unmarshal(raw, &ev); err != nil {
		return nil, err.Error()
	}
	known := []string{"type", "tenant", "source", "context", "subject", "time", "data", "dataBase64", "dataContentType", "dataSchema", "idempotencyKey", "extensions"}
	for name := range ev {
		if !slices.Contains(known, name) {
			return nil, "unknown field " + name
		}
	}
	var typ, key string
	json.Unmarshal(ev["type"], &typ)
	json.Unmarshal(ev["idempotencyKey"], &key)
	if typ == "" || typ == "bad" {
		return nil, "type: is not one"
	}
	if id, ok := f.keys[key]; ok && key != "" {
		return map[string]any{"id": id, "duplicate": true}, ""
	}
	id := fmt.Sprintf("ev_%d", len(f.events)+1)
	f.keys[key] = id
	delete(ev, "idempotencyKey")
	ev["id"] = json.RawMessage(strconv.Quote(id))
	f.events = append(f.events, ev)
	return map[string]any{"id": id, "duplicate": false}, ""
}

func (f *fake) publish(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	receipt, problem := f.accept(body)
	if problem != "" {
		refuse(w, 400, "%s", problem)
		return
	}
	answer(w, 202, receipt)
}

func (f *fake) publishBatch(w http.ResponseWriter, r *http.Request) {
	var batch struct{ Events []json.RawMessage }
	if err := json.NewDecoder(r.Body).Decode(&batch); err != nil {
		refuse(w, 400, "%v", err)
		return
	}
	var results []any
	for _, raw := range batch.Events {
		receipt, problem := f.accept(raw)
		if problem != "" {
			receipt = map[string]any{"error": map[string]any{"code": 3, "message": problem}}
		}
		results = append(results, receipt)
	}
	answer(w, 200, map[string]any{"results": results})
}

func (f *fake) listEvents(w http.ResponseWriter, r *http.Request) {
	var items []any
	for i, ev := range slices.Backward(f.events) {
		if t := r.FormValue("type"); t != "" && string(ev["type"]) != strconv.Quote(t) {
			continue
		}
		items = append(items, map[string]any{
			"id": ev["id"], "type": ev["type"], "status": "delivered", "sequence": strconv.Itoa(i + 1), "receivedAt": "2026-01-31T09:00:00Z",
		})
	}
	answerPage(w, r, items, 2)
}

func (f *fake) getEvent(w http.ResponseWriter, r *http.Request) {
	for _, ev := range f.events {
		if string(ev["id"]) == strconv.Quote(r.PathValue("id")) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"direction":"OUTGOING","receivedAt":"2026-01-31T09:00:00Z"`)
			for _, name := range []string{"id", "type", "tenant", "dataContentType", "data", "dataBase64"} {
				if ev[name] != nil {
					fmt.Fprintf(w, `,%q:%s`, name, ev[name])
				}
			}
			io.WriteString(w, "}")
			return
		}
	}
	refuse(w, 404, "there is no event %s", r.PathValue("id"))
}

func (f *fake) trace(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, `{"id":"`+r.PathValue("id")+`","type":"order.created","source":"shop","status":"retrying","entries":[
		{"at":"2026-01-31T09:00:00Z","step":"received","outcome":"ok"},
		{"at":"2026-01-31T09:00:00.001200Z","step":"stored","outcome":"ok","took":"0.000800s"},
		{"at":"2026-01-31T09:00:00.002Z","step":"queued","subscription":"orders","round":1},
		{"at":"2026-01-31T09:00:00.003Z","step":"attempt","subscription":"orders","round":1,
		 "attempt":{"number":1,"outcome":"retry","status":503,"latency":"0.012s","nextAt":"2026-01-31T09:00:01Z"}},
		{"at":"2026-01-31T09:00:01.100Z","step":"attempt","subscription":"orders","round":1,
		 "attempt":{"number":2,"outcome":"retry","errorClass":"timeout","error":"no answer\u001b[2J","latency":"10s"}}]}`)
}

func (f *fake) deadLetters(w http.ResponseWriter, r *http.Request) {
	var items []any
	for _, id := range []string{"3", "2", "1"} {
		if s := r.FormValue("status"); s == "" || s == "5xx" {
			items = append(items, map[string]any{
				"id": id, "eventId": "ev_" + id, "eventType": "order.created", "subscription": "orders", "round": 1, "attempts": 6,
				"reason": "exhausted", "status": 503, "at": "2026-01-31T09:00:00Z",
			})
		}
	}
	answerPage(w, r, items, 2)
}

// deleteLetters says what it was asked for, in numbers.
func (f *fake) deleteLetters(w http.ResponseWriter, r *http.Request) {
	n := len(r.URL.Query()["ids"])
	if n == 0 && r.URL.RawQuery == "" {
		refuse(w, 400, "ids: is empty")
		return
	}
	if r.FormValue("subscription") == "orders" {
		n = 3
	}
	answer(w, 200, map[string]any{"deleted": n})
}

func (f *fake) retry(w http.ResponseWriter, r *http.Request) {
	var req struct {
		IDs    []string
		Status string
		DryRun bool
	}
	json.NewDecoder(r.Body).Decode(&req)
	if req.Status == "5xx" {
		req.IDs = []string{"1", "2", "3"}
	}
	if req.DryRun {
		answer(w, 200, map[string]any{"retried": len(req.IDs)})
		return
	}
	if len(req.IDs) == 0 {
		refuse(w, 400, "ids: is empty")
		return
	}
	var results []any
	retried := 0
	for _, id := range req.IDs {
		if len(id) > 1 {
			results = append(results, map[string]any{"id": id, "error": map[string]any{"code": 5, "message": "there is no such dead letter"}})
			continue
		}
		retried++
		results = append(results, map[string]any{"id": id, "eventId": "ev_" + id, "subscription": "orders", "round": 2})
	}
	answer(w, 200, map[string]any{"retried": retried, "results": results})
}

func (f *fake) putSchema(w http.ResponseWriter, r *http.Request) {
	var req struct{ Schema json.RawMessage }
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil || req.Schema == nil {
		refuse(w, 400, "there is no schema")
		return
	}
	typ := r.PathValue("type")
	versions := f.schemas[typ]
	created := len(versions) == 0 || string(versions[len(versions)-1]) != string(req.Schema)
	if r.FormValue("dryRun") == "true" {
		answer(w, 200, map[string]any{"schema": map[string]any{"type": typ, "version": len(versions) + 1}, "created": created})
		return
	}
	if created {
		f.schemas[typ] = append(versions, req.Schema)
	}
	answer(w, 200, map[string]any{"schema": f.schema(typ, len(f.schemas[typ])), "created": created})
}

func (f *fake) schema(typ string, version int) map[string]any {
	return map[string]any{"type": typ, "version": version, "kind": "JSON_SCHEMA", "definition": f.schemas[typ][version-1], "createdBy": "admin"}
}

func (f *fake) getSchema(w http.ResponseWriter, r *http.Request) {
	typ := r.PathValue("type")
	version, _ := strconv.Atoi(r.FormValue("version"))
	if version == 0 {
		version = len(f.schemas[typ])
	}
	if version == 0 || version > len(f.schemas[typ]) {
		refuse(w, 404, "%s has no such schema", typ)
		return
	}
	var versions []int
	for i := range f.schemas[typ] {
		versions = append(versions, i+1)
	}
	answer(w, 200, map[string]any{"schema": f.schema(typ, version), "versions": versions})
}

func (f *fake) listSchemas(w http.ResponseWriter, r *http.Request) {
	var items []any
	for typ, versions := range f.schemas {
		if strings.HasPrefix(typ, r.FormValue("prefix")) {
			items = append(items, f.schema(typ, len(versions)))
		}
	}
	answerPage(w, r, items, 2)
}

// validate knows one rule: data is an object.
func (f *fake) validate(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Type string
		Data json.RawMessage
	}
	json.NewDecoder(r.Body).Decode(&req)
	if req.Data[0] != '{' {
		answer(w, 200, map[string]any{"valid": false, "version": 1, "violations": []any{map[string]any{"field": "", "description": "must be an object"}}})
		return
	}
	answer(w, 200, map[string]any{"valid": true, "version": len(f.schemas[req.Type])})
}

// startReplay starts a job over ten events, which gets on by three each time that
// somebody looks at it. One to subscription "gone" fails.
func (f *fake) startReplay(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	req := new(posthornv1.StartReplayRequest)
	if err := protojson.Unmarshal(body, req); err != nil {
		refuse(w, 400, "%v", err)
		return
	}
	if proto.Size(req.GetFilter()) == 0 && req.GetSubscription() == "" && !req.GetAll() {
		refuse(w, 400, "filter: selects every event for everybody")
		return
	}
	if req.GetDryRun() {
		answerProto(w, &posthornv1.StartReplayResponse{Preview: &posthornv1.ReplayPreview{Events: 10, Deliveries: 20, Examples: []string{"ev_1", "ev_2"}}})
		return
	}
	n := len(f.replays) + 1
	job := &posthornv1.Replay{
		Id: fmt.Sprintf("replay_%d", n), State: posthornv1.Replay_PENDING, Filter: req.GetFilter(), Subscription: req.GetSubscription(),
		Force: req.GetForce(), RatePerSecond: req.GetRatePerSecond(), Round: int32(1000 * n), CreatedBy: "admin",
	}
	f.replays = append(f.replays, job)
	answerProto(w, &posthornv1.StartReplayResponse{Replay: job})
}

func (f *fake) replay(id string) *posthornv1.Replay {
	for _, job := range f.replays {
		if job.GetId() == id {
			return job
		}
	}
	return nil
}

func (f *fake) getReplay(w http.ResponseWriter, r *http.Request) {
	job := f.replay(r.PathValue("id"))
	if job == nil {
		refuse(w, 404, "there is no replay %s", r.PathValue("id"))
		return
	}
	if job.GetState() == posthornv1.Replay_PENDING || job.GetState() == posthornv1.Replay_RUNNING {
		job.State, job.Total = posthornv1.Replay_RUNNING, new(uint32(10))
		job.Seen = min(10, job.GetSeen()+3)
		job.Queued = 2 * job.GetSeen()
		switch {
		case job.GetSubscription() == "gone":
			job.State, job.Error = posthornv1.Replay_FAILED, "subscription gone is deleted or disabled"
		case job.GetSeen() == 10:
			job.State = posthornv1.Replay_DONE
		}
	}
	answerProto(w, job)
}

func (f *fake) listReplays(w http.ResponseWriter, r *http.Request) {
	var items []any
	for _, job := range slices.Backward(f.replays) {
		if state := r.FormValue("state"); state == "" || state == job.GetState().String() {
			raw, _ := protojson.Marshal(job)
			items = append(items, json.RawMessage(raw))
		}
	}
	answerPage(w, r, items, 2)
}

func (f *fake) cancelReplay(w http.ResponseWriter, r *http.Request) {
	id, _ := strings.CutSuffix(r.PathValue("id"), ":cancel")
	job := f.replay(id)
	switch {
	case job == nil:
		refuse(w, 404, "there is no replay %s", id)
	case job.GetState() == posthornv1.Replay_DONE:
		refuse(w, 409, "replay %s is over: it is DONE", id)
	default:
		job.State = posthornv1.Replay_CANCELLED
		answerProto(w, job)
	}
}
