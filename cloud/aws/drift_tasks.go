package aws

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/postern/postern/cloud"
	"github.com/postern/postern/graph"
)

const (
	tokenECSService = "aws:ecs/service:Service"
	tokenCluster    = "aws:ecs/cluster:Cluster"
	tokenTask       = "aws:ecs/taskDefinition:TaskDefinition"
)

// service is a live service of ECS, with what its tasks are.
type service struct {
	name, tag string
	// shell means that commands can be run in its tasks.
	shell bool
	// role is the name of its tasks' role, or "". execution is the name of the platform's role.
	role, execution string
	images          []string
}

// batch is the number of services that ECS describes at once.
const batch = 10

// readTasks reads the services in the stack's clusters, whoever made them.
func (a *Account) readTasks(ctx context.Context, g *graph.Graph, l *live) error {
	if len(g.OfType(tokenCluster)) == 0 {
		return nil
	}
	client := ecs.NewFromConfig(a.cfg)
	for p := ecs.NewListClustersPaginator(client, &ecs.ListClustersInput{}); p.HasMorePages(); {
		page, err := p.NextPage(ctx)
		if err != nil {
			return explain("list clusters", err)
		}
		about, err := client.DescribeClusters(ctx, &ecs.DescribeClustersInput{Clusters: page.ClusterArns, Include: []types.ClusterField{types.ClusterFieldTags}})
		if err != nil {
			return explain("read clusters", err)
		}
		for _, c := range about.Clusters {
			if ecsTag(c.Tags, graph.TagStack) != g.Stack {
				continue
			}
			if err := readServices(ctx, client, c.ClusterArn, l); err != nil {
				return explain("read the services of cluster "+aws.ToString(c.ClusterName), err)
			}
		}
	}
	return nil
}

func readServices(ctx context.Context, client *ecs.Client, cluster *string, l *live) error {
	for p := ecs.NewListServicesPaginator(client, &ecs.ListServicesInput{Cluster: cluster, MaxResults: aws.Int32(batch)}); p.HasMorePages(); {
		page, err := p.NextPage(ctx)
		if err != nil {
			return err
		}
		if len(page.ServiceArns) == 0 {
			continue
		}
		about, err := client.DescribeServices(ctx, &ecs.DescribeServicesInput{Cluster: cluster, Services: page.ServiceArns, Include: []types.ServiceField{types.ServiceFieldTags}})
		if err != nil {
			return err
		}
		for _, s := range about.Services {
			task, err := client.DescribeTaskDefinition(ctx, &ecs.DescribeTaskDefinitionInput{TaskDefinition: s.TaskDefinition})
			if err != nil {
				return err
			}
			found := service{
				name: aws.ToString(s.ServiceName), tag: ecsTag(s.Tags, graph.TagName), shell: s.EnableExecuteCommand,
				role: roleName(task.TaskDefinition.TaskRoleArn), execution: roleName(task.TaskDefinition.ExecutionRoleArn),
			}
			for _, c := range task.TaskDefinition.ContainerDefinitions {
				found.images = append(found.images, aws.ToString(c.Image))
			}
			l.tasks = append(l.tasks, found)
		}
	}
	return nil
}

func ecsTag(tags []types.Tag, key string) string {
	for _, t := range tags {
		if aws.ToString(t.Key) == key {
			return aws.ToString(t.Value)
		}
	}
	return ""
}

func roleName(arn *string) string {
	return aws.ToString(arn)[strings.LastIndexByte(aws.ToString(arn), '/')+1:]
}

// tasks compares what runs on Fargate, and as whom.
func (d *differ) tasks() {
	planned := d.g.OfType(tokenECSService)
	for _, r := range planned {
		i := slices.IndexFunc(d.live.tasks, func(s service) bool { return s.tag == r.Tag(graph.TagName) })
		if i < 0 {
			d.found = append(d.found, cloud.Difference{Risk: cloud.Medium, Resource: r.Name, What: "the service is not there", Do: again})
			continue
		}
		d.task(r, d.live.tasks[i])
	}
	for _, s := range d.live.tasks {
		if !slices.ContainsFunc(planned, func(r *graph.Resource) bool { return s.tag == r.Tag(graph.TagName) }) {
			d.report(cloud.High, s.name, "find out who made it, and delete it", "a service in the stack's cluster is not in the plan")
		}
	}
}

func (d *differ) task(r *graph.Resource, live service) {
	definition := d.g.Refers(r, "taskDefinition", tokenTask)
	if definition == nil {
		return
	}
	risk := worst(r.Role == "agents") // agents have no identity in AWS
	found := func(what string) {
		d.found = append(d.found, cloud.Difference{Risk: risk, Resource: r.Name, ID: live.name, What: what, Do: again})
	}
	if live.shell {
		found("commands can be run in its tasks (ECS Exec)")
	}
	if want := d.idOf(definition, "taskRoleArn"); live.role != want {
		found("its tasks have the role " + orNone(live.role) + ", planned is " + orNone(want))
	}
	if want := d.idOf(definition, "executionRoleArn"); live.execution != want {
		found("ECS starts its tasks with the role " + orNone(live.execution) + ", planned is " + orNone(want))
	}
	text, _ := definition.Value("containerDefinitions").(string)
	var containers []struct{ Image string }
	if err := json.Unmarshal([]byte(text), &containers); err != nil {
		return // the plan does not know the ARN yet
	}
	for _, image := range live.images {
		if !slices.ContainsFunc(containers, func(c struct{ Image string }) bool { return c.Image == image }) {
			found("its tasks run the image " + image + ", which is not planned")
		}
	}
}

func orNone(name string) string {
	if name == "" {
		return "none"
	}
	return name
}
