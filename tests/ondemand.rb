# What Open OnDemand does with an app of the kind batch_connect, as its documentation says:
# ondemand.rb APP STAGED NAME=VALUE...: prints the form, what is submitted and the view as JSON, and stages the job.
require "erb"
require "fileutils"
require "json"
require "ostruct"
require "yaml"

app, staged, *given = ARGV
render = lambda do |path, binding|
  erb = ERB.new(File.read(path), trim_mode: "-")
  erb.filename = path
  erb.result(binding)
end
form = YAML.safe_load(render.call("#{app}/form.yml.erb", binding))
fixed = form["attributes"].select { |_, value| value.is_a?(String) }
context = OpenStruct.new(fixed.merge(given.to_h { |one| one.split("=", 2) }))
submit = YAML.safe_load(render.call("#{app}/submit.yml.erb", context.instance_eval { binding }))
Dir.glob("**/*", base: "#{app}/template").each do |name|
  from, to = "#{app}/template/#{name}", "#{staged}/#{name.delete_suffix('.erb')}"
  next FileUtils.mkdir_p(to) if File.directory?(from)

  File.write(to, name.end_with?(".erb") ? render.call(from, binding) : File.read(from))
  File.chmod(File.stat(from).mode, to)
end
view = OpenStruct.new(host: "@HOST", port: "@PORT", password: "@PASSWORD")
page = render.call("#{app}/view.html.erb", view.instance_eval { binding })
puts JSON.generate("form" => form, "submit" => submit, "view" => page)
