package cloud_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/postern/postern/graph"
)

// lacking answers in front of moto what moto 5.2 does not know: the DNS firewall, as the plan has
// it, the profiles of Route 53, and who is connected to an endpoint service. It refuses one action
// if it is told to, and remembers what was asked.
type lacking struct {
	b      *builder
	url    string
	mu     sync.Mutex
	asked  map[string]bool
	refuse string
	// kept are answers of moto by what was asked, while nothing changes: nil asks moto each time.
	kept map[string]*httptest.ResponseRecorder
	// off has no association of the DNS firewall.
	off bool
	// connected is the owner of another endpoint that is connected, or "". There is a profile then,
	// too.
	connected string
}

func newLacking(b *builder) *lacking {
	b.t.Helper()
	at, err := url.Parse(os.Getenv("AWS_ENDPOINT_URL"))
	require.NoError(b.t, err)
	l := &lacking{b: b, asked: map[string]bool{}}
	forward := httputil.NewSingleHostReverseProxy(at) //nolint:gosec // moto
	var pairs []string
	for has, planned := range b.moved {
		pairs = append(pairs, ">"+has+"<", ">"+planned+"<")
	}
	moved := strings.NewReplacer(pairs...)
	forward.ModifyResponse = func(r *http.Response) error {
		body, err := io.ReadAll(r.Body)
		text := moved.Replace(string(body))
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
		r.Header.Set("Content-Length", strconv.Itoa(len(text)))
		return err
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if l.answer(w, r, string(body)) {
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		asked := fmt.Sprint(
			signed.FindString(r.Header.Get("Authorization")), r.Header.Get("X-Amz-Target"), r.URL, string(body),
		)
		said := l.kept[asked]
		if said == nil {
			said = httptest.NewRecorder()
			forward.ServeHTTP(said, r)
		}
		if l.kept != nil {
			l.kept[asked] = said
		}
		maps.Copy(w.Header(), said.Header())
		w.WriteHeader(said.Code)
		_, _ = w.Write(said.Body.Bytes())
	}))
	b.t.Cleanup(server.Close)
	l.url = server.URL
	return l
}

// refusal is AWS's, in the forms of EC2 and of the other services.
const refusal = `<Error><Code>UnauthorizedOperation</Code><Message>said by the test</Message></Error>`

const profiles = "route53profiles:ListProfileAssociations"

var signed = regexp.MustCompile(`Credential=[^/]+/[^/]+/[^/]+/([a-z0-9]+)/`)

func (l *lacking) answer(w http.ResponseWriter, r *http.Request, body string) bool {
	service := signed.FindStringSubmatch(r.Header.Get("Authorization"))
	action := r.Header.Get("X-Amz-Target")
	action = action[strings.LastIndexByte(action, '.')+1:]
	if form, err := url.ParseQuery(body); err == nil && form.Get("Action") != "" {
		action = form.Get("Action")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if service != nil && service[1] == "route53profiles" { // it is in the URL
		action = "ListProfileAssociations"
	}
	if service != nil {
		action = service[1] + ":" + action
	}
	l.asked[action] = true
	if action == l.refuse {
		w.WriteHeader(http.StatusForbidden)
		if r.Header.Get("X-Amz-Target") != "" || action == profiles {
			fmt.Fprint(w, `{"__type":"AccessDeniedException","message":"said by the test"}`)
		} else {
			fmt.Fprint(
				w, `<ErrorResponse><Errors>`+refusal+`</Errors>`+refusal+`</ErrorResponse>`,
			)
		}
		return true
	}
	if action == profiles {
		item := ""
		if l.connected != "" {
			item = `{"Id":"rpassoc-0123456789abcdef0","Name":"by-hand"}`
		}
		fmt.Fprint(w, `{"ProfileAssociations":[`+item+`]}`)
		return true
	}
	if action == "ec2:DescribeVpcEndpointConnections" {
		item := ""
		if l.connected != "" {
			item = `<item><vpcEndpointConnectionId>vpce-con-0123456789abcdef0</vpcEndpointConnectionId>` +
				`<vpcEndpointId>vpce-00000000000000001</vpcEndpointId><vpcEndpointOwner>` + l.connected +
				`</vpcEndpointOwner><vpcEndpointState>available</vpcEndpointState></item>`
		}
		fmt.Fprint(
			w, `<DescribeVpcEndpointConnectionsResponse><vpcEndpointConnectionSet>`+item+
				`</vpcEndpointConnectionSet></DescribeVpcEndpointConnectionsResponse>`,
		)
		return true
	}
	if out := l.firewall(strings.TrimPrefix(action, "route53resolver:"), body); out != nil {
		_ = json.NewEncoder(w).Encode(out)
		return true
	}
	return false
}

// set changes what it answers.
func (l *lacking) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// firewallID is the ID of one of the plan's resources of the firewall.
func firewallID(kind string, r *graph.Resource) string {
	h := fnv.New64()
	_, _ = h.Write([]byte(r.URN))
	return fmt.Sprintf("rslvr-%s-%017x", kind, h.Sum64())
}

func (l *lacking) firewall(action, body string) map[string]any {
	var in struct{ VpcId, ResourceId, FirewallRuleGroupId, FirewallDomainListId string } //nolint:staticcheck // of AWS
	_ = json.Unmarshal([]byte(body), &in)
	g, list := l.b.g, []any{}
	group := func(r *graph.Resource) string {
		return firewallID(
			"frg", g.Refers(
				r, "firewallRuleGroupId", "aws:route53/resolverFirewallRuleGroup:ResolverFirewallRuleGroup",
			),
		)
	}
	names := func(r *graph.Resource) *graph.Resource {
		return g.Refers(
			r, "firewallDomainListId", "aws:route53/resolverFirewallDomainList:ResolverFirewallDomainList",
		)
	}
	switch action {
	case "ListFirewallRuleGroupAssociations":
		for _, r := range g.OfType(
			"aws:route53/resolverFirewallRuleGroupAssociation:ResolverFirewallRuleGroupAssociation",
		) {
			if *l.b.ref(r, "vpcId") == in.VpcId && !l.off {
				list = append(list, map[string]any{
					"Id": firewallID("frgassoc", r), "VpcId": in.VpcId, "FirewallRuleGroupId": group(r),
					"Priority": r.Inputs["priority"], "Status": "COMPLETE",
				})
			}
		}
		return map[string]any{"FirewallRuleGroupAssociations": list}
	case "ListFirewallRules":
		for _, r := range g.OfType("aws:route53/resolverFirewallRule:ResolverFirewallRule") {
			if group(r) == in.FirewallRuleGroupId {
				list = append(list, map[string]any{
					"FirewallRuleGroupId": group(r), "FirewallDomainListId": firewallID("fdl", names(r)),
					"Name":     r.Name,
					"Priority": r.Inputs["priority"], "Action": r.Inputs["action"],
					"FirewallDomainRedirectionAction": r.Inputs["firewallDomainRedirectionAction"],
				})
			}
		}
		return map[string]any{"FirewallRules": list}
	case "ListFirewallDomains":
		for _, r := range g.OfType("aws:route53/resolverFirewallDomainList:ResolverFirewallDomainList") {
			if firewallID("fdl", r) == in.FirewallDomainListId {
				return map[string]any{"Domains": r.Inputs["domains"]}
			}
		}
	case "GetFirewallConfig":
		return map[string]any{"FirewallConfig": map[string]any{
			"Id": "rslvr-fc-0123456789abcdef0", "ResourceId": in.ResourceId, "FirewallFailOpen": "DISABLED",
		}}
	}
	return nil
}
