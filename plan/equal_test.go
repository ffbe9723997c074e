package plan

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEqualForgetsNoField: a rule differs from another one in every field that
// there is, and in every field of what it points to.
func TestEqualForgetsNoField(t *testing.T) {
	t.Parallel()
	full := func() *Rule {
		r := &Rule{}
		fill(reflect.ValueOf(r).Elem())
		return r
	}
	require.True(t, full().Equal(full()))
	var change func(r *Rule, v reflect.Value, path string)
	change = func(r *Rule, v reflect.Value, path string) {
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				change(r, v.Field(i), path+"."+v.Type().Field(i).Name)
			}
			return
		case reflect.Pointer, reflect.Slice:
			if v.Kind() == reflect.Pointer {
				change(r, v.Elem(), path)
			} else {
				change(r, v.Index(0), path)
			}
		}
		old := reflect.ValueOf(v.Interface())
		v.SetZero()
		require.False(t, r.Equal(full()), path)
		require.False(t, full().Equal(r), path)
		v.Set(old)
	}
	r := full()
	change(r, reflect.ValueOf(r).Elem(), "Rule")
	require.True(t, r.Equal(full()))
	require.False(t, EqualRules([]Rule{*r}, nil))
	require.True(t, EqualRules([]Rule{*r}, []Rule{*full()}))
}

// fill sets every field to something that is not zero.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	default:
		v.SetUint(1)
	}
}
