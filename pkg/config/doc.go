// Package config has the platform's settings: what they are, what they are by
// default, and where they come from.
//
// A setting is a field of [Config]. Its key in posthorn.yaml, its flag and its
// environment variable follow from the field's tags, so that there is one list
// of settings and no table beside it: key store.max-age is flag --store-max-age
// and variable POSTHORN_STORE_MAX_AGE. Flags win over the environment, the
// environment over the file, the file over [Default].
//
// It promises that nothing is ignored in silence: a key or a variable that no
// setting has is an error that names it, a value that cannot be read is an
// error that names where it was written, and [Config.Validate] reports all
// problems at once. Secrets have types of their own that print masked, so none
// reaches a log line or [Config.Print] by accident.
//
// It keeps no state, opens nothing and watches nothing: a process reads its
// configuration once. What users change while the platform runs (sources,
// subscriptions, policies) is not here but in the Master API.
package config
