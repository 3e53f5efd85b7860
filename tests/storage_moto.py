"""moto's S3 server on loopback with a bucket in it. Prints its port, serves until its input ends; status 77 where moto is not installed."""
import os, sys

try:
    import boto3
    from moto.server import ThreadedMotoServer
except ImportError:
    sys.exit(77)
os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_DEFAULT_REGION="eu-west-1")
import logging

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
s3 = boto3.client("s3", endpoint_url="http://127.0.0.1:%d" % port, region_name="eu-west-1")
s3.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
for name in os.listdir(sys.argv[1]):
    with open(os.path.join(sys.argv[1], name), "rb") as file:
        s3.put_object(Bucket="bucket", Key="a model/v1+/" + name, Body=file.read())
print(port, flush=True)
sys.stdin.read()
os._exit(0)
