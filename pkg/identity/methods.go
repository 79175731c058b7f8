package identity

import (
	"github.com/posthornhq/posthorn/pkg/errs"
)

// A Requirement is the role that a method wants, [Public] or [Any].
type Requirement string

const (
	// Public wants nothing, not even a token.
	Public Requirement = "public"
	// Any wants a token, whatever its roles.
	Any Requirement = "any"
)

// Methods is what every method of the Master API, the registry and the broker
// wants, by its full gRPC name. Nobody may change it.
var Methods = map[string]Requirement{
	"/posthorn.v1.SourceService/ListSources":  "sources:read",
	"/posthorn.v1.SourceService/GetSource":    "sources:read",
	"/posthorn.v1.SourceService/CreateSource": "sources:write",
	"/posthorn.v1.SourceService/PutSource":    "sources:write",
	"/posthorn.v1.SourceService/DeleteSource": "sources:write",

	"/posthorn.v1.SubscriptionService/ListSubscriptions":  "subscriptions:read",
	"/posthorn.v1.SubscriptionService/GetSubscription":    "subscriptions:read",
	"/posthorn.v1.SubscriptionService/CreateSubscription": "subscriptions:write",
	"/posthorn.v1.SubscriptionService/PutSubscription":    "subscriptions:write",
	"/posthorn.v1.SubscriptionService/DeleteSubscription": "subscriptions:write",
	// It runs a program, as only those may who may save one.
	"/posthorn.v1.SubscriptionService/TryTransform": "subscriptions:write",
	// It sends something out, with the subscription's credentials.
	"/posthorn.v1.SubscriptionService/TestSubscription": "subscriptions:write",

	"/posthorn.v1.PolicyService/ListPolicies": "policies:read",
	"/posthorn.v1.PolicyService/GetPolicy":    "policies:read",
	"/posthorn.v1.PolicyService/CreatePolicy": "policies:write",
	"/posthorn.v1.PolicyService/PutPolicy":    "policies:write",
	"/posthorn.v1.PolicyService/DeletePolicy": "policies:write",
	// A draft is run as if it were saved, with a source's secrets.
	"/posthorn.v1.PolicyService/SimulatePolicy":     "policies:write",
	"/posthorn.v1.PolicyService/ListPolicyVersions": "policies:read",
	"/posthorn.v1.PolicyService/RevertPolicy":       "policies:write",

	"/posthorn.v1.AuthorizationService/ListAuthorizations":  "policies:read",
	"/posthorn.v1.AuthorizationService/GetAuthorization":    "policies:read",
	"/posthorn.v1.AuthorizationService/CreateAuthorization": "policies:write",
	"/posthorn.v1.AuthorizationService/PutAuthorization":    "policies:write",
	"/posthorn.v1.AuthorizationService/DeleteAuthorization": "policies:write",

	"/posthorn.v1.BackoffService/ListBackoffs":  "backoffs:read",
	"/posthorn.v1.BackoffService/GetBackoff":    "backoffs:read",
	"/posthorn.v1.BackoffService/CreateBackoff": "backoffs:write",
	"/posthorn.v1.BackoffService/PutBackoff":    "backoffs:write",
	"/posthorn.v1.BackoffService/DeleteBackoff": "backoffs:write",

	"/posthorn.v1.SettingsService/GetSettings": "config:read",
	"/posthorn.v1.SettingsService/PutSettings": "config:write",

	"/posthorn.v1.EventService/PublishEvent":  "events:write",
	"/posthorn.v1.EventService/PublishEvents": "events:write",
	"/posthorn.v1.EventService/ListEvents":    "events:read",
	"/posthorn.v1.EventService/GetEvent":      "events:read",
	"/posthorn.v1.EventService/TraceEvent":    "events:read",
	// It makes no event, but deliveries to all subscribers.
	"/posthorn.v1.EventService/ReplayEvent":    "deliveries:write",
	"/posthorn.v1.EventService/ListRejections": "events:read",

	"/posthorn.v1.DeadLetterService/ListDeadLetters":   "deliveries:read",
	"/posthorn.v1.DeadLetterService/RetryDeadLetters":  "deliveries:write",
	"/posthorn.v1.DeadLetterService/DeleteDeadLetter":  "deliveries:write",
	"/posthorn.v1.DeadLetterService/DeleteDeadLetters": "deliveries:write",

	"/posthorn.v1.Lanes/ListLanes": "deliveries:read",

	"/posthorn.v1.Replays/StartReplay":  "deliveries:write",
	"/posthorn.v1.Replays/ListReplays":  "deliveries:read",
	"/posthorn.v1.Replays/GetReplay":    "deliveries:read",
	"/posthorn.v1.Replays/CancelReplay": "deliveries:write",

	// Its answers (ack, nack, extend) want deliveries:write on the stream too.
	"/posthorn.v1.Deliveries/Receive": "deliveries:read",
	"/posthorn.v1.Deliveries/Fetch":   "deliveries:read",
	"/posthorn.v1.Deliveries/Ack":     "deliveries:write",
	"/posthorn.v1.Deliveries/Nack":    "deliveries:write",
	"/posthorn.v1.Deliveries/Extend":  "deliveries:write",

	"/posthorn.v1.AccountService/WhoAmI":           Any,
	"/posthorn.v1.AccountService/SignIn":           Public,
	"/posthorn.v1.AccountService/GetSigningKeys":   Public,
	"/posthorn.v1.AccountService/RotateSigningKey": RoleAdmin,

	"/posthorn.v1.UserService/ListUsers":  "users:read",
	"/posthorn.v1.UserService/GetUser":    "users:read",
	"/posthorn.v1.UserService/CreateUser": "users:write",
	"/posthorn.v1.UserService/PutUser":    "users:write",
	"/posthorn.v1.UserService/DeleteUser": "users:write",

	"/posthorn.v1.KeyService/ListKeys":  "keys:read",
	"/posthorn.v1.KeyService/GetKey":    "keys:read",
	"/posthorn.v1.KeyService/CreateKey": "keys:write",
	"/posthorn.v1.KeyService/DeleteKey": "keys:write",

	"/posthorn.v1.AuditService/ListChanges": "audit:read",

	"/posthorn.v1.SchemaRegistry/GetSchema":              "schemas:read",
	"/posthorn.v1.SchemaRegistry/GetSchemaList":          "schemas:read",
	"/posthorn.v1.SchemaRegistry/StoreSchema":            "schemas:write",
	"/posthorn.v1.SchemaRegistry/ValidateEventForSchema": "schemas:read",

	"/posthorn.v1.EventBroker/HandleIncomingEvent":   "events:write",
	"/posthorn.v1.EventBroker/HandleIncomingMessage": "events:write",
	"/posthorn.v1.EventBroker/SendOutgoingEvent":     "events:write",
	"/posthorn.v1.EventBroker/PublishBatch":          "events:write",
	"/posthorn.v1.EventBroker/Publish":               "events:write",
	"/posthorn.v1.EventBroker/Ping":                  Any,
}

// Require returns what a method wants, given its full name
// ("/posthorn.v1.SourceService/GetSource"). A method without a row must not be
// served.
func Require(method string) (Requirement, bool) {
	r, ok := Methods[method]
	return r, ok
}

// Allowed returns nil if the caller, whom [Directory.Authenticate] knows, may call
// method, and else an error of kind [errs.Denied] that names the role which is missing.
func Allowed(id Identity, method string) error {
	switch want, ok := Require(method); {
	case !ok:
		return errs.New(errs.Denied, "nobody may call %s", method)
	case want == Public || want == Any || id.Has(string(want)):
		return nil
	default:
		return errs.New(errs.Denied, "role %s is missing; ask who administers users and keys for it", want)
	}
}
