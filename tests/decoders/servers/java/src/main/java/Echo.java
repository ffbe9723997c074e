import jakarta.servlet.http.*;
import java.io.*;
import java.nio.charset.StandardCharsets;
import java.util.*;

/** Echo PORT SERVER DIR: what a servlet of Tomcat or Jetty is told of a request. */
public class Echo extends HttpServlet {
  public static void main(String[] args) throws Exception {
    if (args[0].equals("version")) {
      System.out.println(args[1].equals("jetty") ? "Jetty " + org.eclipse.jetty.util.Jetty.VERSION : org.apache.catalina.util.ServerInfo.getServerInfo());
      return;
    }
    int port = Integer.parseInt(args[0]);
    if (args[1].equals("jetty")) {
      var server = new org.eclipse.jetty.server.Server(new java.net.InetSocketAddress("127.0.0.1", port));
      var context = new org.eclipse.jetty.ee10.servlet.ServletContextHandler();
      context.addServlet(Echo.class, "/*");
      server.setHandler(context);
      server.start();
      server.join();
      return;
    }
    var tomcat = new org.apache.catalina.startup.Tomcat();
    tomcat.setBaseDir(args[2]);
    tomcat.setPort(port);
    tomcat.getConnector().setProperty("address", "127.0.0.1");
    var context = tomcat.addContext("", args[2]);
    org.apache.catalina.startup.Tomcat.addServlet(context, "echo", new Echo());
    context.addServletMappingDecoded("/*", "echo");
    tomcat.start();
    tomcat.getServer().await();
  }

  @Override protected void service(HttpServletRequest q, HttpServletResponse r) throws IOException {
    var out = new StringBuilder("{\"path\":").append(json(q.getServletPath() + (q.getPathInfo() == null ? "" : q.getPathInfo()))).append(",\"query\":{");
    var comma = "";
    for (var e : q.getParameterMap().entrySet()) {
      out.append(comma).append(json(e.getKey())).append(":[");
      for (int i = 0; i < e.getValue().length; i++) out.append(i == 0 ? "" : ",").append(json(e.getValue()[i]));
      out.append("]");
      comma = ",";
    }
    r.setContentType("application/json");
    r.getOutputStream().write(out.append("}}").toString().getBytes(StandardCharsets.UTF_8));
  }

  /** Bytes as JSON can hold them: a character each. */
  static String json(String s) {
    var out = new StringBuilder("\"");
    for (byte b : s.getBytes(StandardCharsets.UTF_8)) out.append(String.format("\\u%04x", b & 0xff));
    return out.append("\"").toString();
  }
}
